"""A long book read once; the engine killed with -9; a question through the gateway: how long to the first token?

    python -m bench.resume --book BOOK.txt [--repeat 5] [--data-dir DIR] [--out bench/results/resume.json]

Starts a system of its own on DIR (kept, so that a second run finds the book read), uploads the book, waits until it
is read, asks once (so that the worker knows the book), and then, again and again: kill -9 of the engine, wait until
/readyz says that it is back, ask over REST, take the time from the request to the first `draft` event, which is the
first token that the model decodes. Beside it: how long reading the book took, in this run or in the one that made DIR.
"""

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.where import where
from services.local.rest import ENDED, Rest, server_events
from services.local.stage import Stage

QUESTIONS = ("Who is Waldo?", "What is the name of the farm?", "Where does the story begin?", "Who came to the door?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--book", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--port", type=int, default=8071)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path("bench/results/resume.json"))
    arguments = parser.parse_args()
    folder = arguments.data_dir or Path(tempfile.mkdtemp(prefix="shiori-resume-"))
    settings = {"PORT": arguments.port, "ENGINE_ADDRESS": f"127.0.0.1:{arguments.port + 1}"}
    settings |= {"DATABASE_URL": f"sqlite:///{folder.absolute()}/shiori.db"}
    os.environ.update({f"SHIORI_{name}": str(value) for name, value in settings.items()})
    stage = Stage(folder, f"http://127.0.0.1:{arguments.port}", "")
    rest = stage.open()
    try:
        result = measured(stage, rest, arguments.book, arguments.repeat)
    finally:
        stage.close()
    print(json.dumps({name: value for name, value in result.items() if name != "rows"}, indent=1))
    arguments.out.write_text(json.dumps(result | where(), indent=1) + "\n")


def measured(stage: Stage, rest: Rest, book: Path, repeat: int) -> dict[str, Any]:
    known = rest.find(book.name, hashlib.sha256(book.read_bytes()).hexdigest())
    source = known or rest.upload(book)
    while (now := rest.source(source))["status"] in ("queued", "reading"):
        time.sleep(2)
    reading = now["reading"]
    for job in rest.call("GET", "/v1/jobs")["data"]:
        if job["kind"] == "summarise" and job["status"] not in ENDED:
            rest.call("POST", f"/v1/jobs/{job['id']}/cancel")  # nothing else shall run beside
    time.sleep(3)
    session = rest.session(source)
    warm = asked(rest, session, QUESTIONS[0])
    rows = [killed_and_asked(stage, rest, session, QUESTIONS[n % len(QUESTIONS)]) for n in range(repeat)]
    first = statistics.median(row["first_token_s"] for row in rows)
    return {
        "book": book.name,
        "words": len(book.read_text().split()),
        "tokens": now["tokens"],
        "read_s": reading["seconds"],
        "read_in_this_run": known is None,
        "first_token_s_median": round(first, 3),
        "first_token_s_worst": max(row["first_token_s"] for row in rows),
        "read_again_to_resume": round(reading["seconds"] / first, 1),
        "restore_ms_median": statistics.median(row["restore_ms"] for row in rows),
        "kill_to_ready_s_median": statistics.median(row["ready_s"] for row in rows),
        "live": warm,
        "rows": rows,
    }


def killed_and_asked(stage: Stage, rest: Rest, session: Any, question: str) -> dict[str, Any]:
    old, killed = stage.kill_engine(), time.monotonic()
    while stage.engine_pid() == old or not rest.ready():
        time.sleep(0.05)
    ready = time.monotonic() - killed
    time.sleep(1)  # what starts beside it comes to rest
    row = asked(rest, session, question) | {"ready_s": round(ready, 2)}
    print(json.dumps(row), flush=True)
    return row


def asked(rest: Rest, session: Any, question: str) -> dict[str, Any]:
    """Seconds from the request to the first decoded token and to the checked answer."""
    begun, at = time.monotonic(), {}
    body, headers = {"content": question, "stream": True}, {"Accept": "text/event-stream"}
    with rest.http.stream("POST", f"/v1/sessions/{session['id']}/messages", json=body, headers=headers) as reply:
        for _, event, data in server_events(reply.iter_lines()):
            at.setdefault(event, (round(time.monotonic() - begun, 3), data))
    restored = at["state.restored"][1]
    return {
        "question": question,
        "first_token_s": at["draft"][0],
        "restored_s": at["state.restored"][0],
        "restore_ms": restored["ms"],
        "tokens": restored["tokens"],
        "answer_s": at["delta"][0],
    }


if __name__ == "__main__":
    main()
