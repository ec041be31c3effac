"""The sample book's facts asked over REST: how many answers quote the right sentence, how many refusals are right.

make run &                      # or any system that is up
python -m bench.facts [--url http://127.0.0.1:8000] [--out bench/results/facts.json]
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import httpx

from bench.where import where

SAMPLE = Path("docs/samples/the-lamplighters-ledger.md")
FACTS = Path("docs/samples/facts.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--out", type=Path, default=Path("bench/results/facts.json"))
    arguments = parser.parse_args()
    with httpx.Client(base_url=f"{arguments.url}/v1", timeout=600) as rest:
        document = read_to_the_end(rest)
        session = rest.post("/sessions", json={"source_ids": [document]}).raise_for_status().json()["id"]
        rows = [asked(rest, session, fact) for fact in json.loads(FACTS.read_text())]
    result = totals(rows)
    print(json.dumps(result, indent=1))
    arguments.out.write_text(json.dumps({**result, **where(), "rows": rows}, indent=1, ensure_ascii=False) + "\n")


def read_to_the_end(rest: httpx.Client) -> str:
    with SAMPLE.open("rb") as file:
        source = rest.post("/documents", files={"file": (SAMPLE.name, file)}).raise_for_status().json()["id"]
    while (status := rest.get(f"/documents/{source}").json()["status"]) in ("queued", "reading"):
        time.sleep(1)
    assert status == "ready", status
    return source


def asked(rest: httpx.Client, session: str, fact: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    reply = rest.post(f"/sessions/{session}/messages", json={"content": fact["question"]}).raise_for_status().json()
    row = {"question": fact["question"], "gold": fact["answer"], "answer": reply["answer"], "origin": reply["origin"]}
    return {**row, "right": right(fact, reply), "seconds": round(time.monotonic() - started, 2)}


def right(fact: dict[str, Any], reply: dict[str, Any]) -> bool:
    """A quote holds the answer; where the book has none, nothing is quoted."""
    if fact["answer"] is None:
        return not reply["quotes"]
    return any(fact["answer"].lower() in quote["text"].lower() for quote in reply["quotes"])


def totals(rows: list[dict[str, Any]]) -> dict[str, Any]:
    told = [row for row in rows if row["gold"] is not None]
    untold = [row for row in rows if row["gold"] is None]
    return {
        "right_sentence": f"{sum(r['right'] for r in told)} of {len(told)}",
        "of_these_from_the_reading": sum(r["right"] and r["origin"] == "read" for r in told),
        "rightly_not_answered": f"{sum(r['right'] for r in untold)} of {len(untold)}",
        "seconds_median": sorted(r["seconds"] for r in rows)[len(rows) // 2],
    }


if __name__ == "__main__":
    main()
