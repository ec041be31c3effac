"""Is anything that we measure on in what was trained on? Runs of thirteen words, by hash: `python -m lab.overlap`."""

import json
import re
import sys
from pathlib import Path

import numpy as np

from lab.corpus import held_out
from lab.pack import PACK, rows

WORD = re.compile(r"\w+")
PRIMES = np.random.default_rng(0).integers(1, 2**63, 13, dtype=np.uint64) | 1


class Runs:
    """Hashes of all runs of thirteen words of a text."""

    def __init__(self):
        self.number: dict[str, int] = {}

    def of(self, text: str) -> np.ndarray:
        number = self.number
        ids = np.array([number.setdefault(w, len(number)) for w in WORD.findall(text.lower())], np.uint64) + np.uint64(
            1
        )
        if len(ids) < 13:
            return np.zeros(0, np.uint64)
        mixed = ids * np.uint64(0x9E3779B97F4A7C15) ^ (ids << np.uint64(31))
        return sum(mixed[i : len(mixed) - 12 + i] * PRIMES[i] for i in range(13))


def measured(runs: Runs) -> list[np.ndarray]:
    """The runs of every paragraph with a question of the valid split of squad."""
    contexts = dict.fromkeys(r["context"] for r in rows(PACK / "qa/squad.jsonl.zst") if r["split"] == "valid")
    return [runs.of(c) for c in contexts]


def trained(name: str):
    for row in rows(PACK / f"{name}.jsonl.zst"):
        if name.startswith("qa/") and row["split"] == "train":
            yield row["context"]
        elif name.startswith("corpus/") and not held_out(row):
            yield row["text"]


def shared(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Those of `found` that are in the sorted `wanted`."""
    at = np.searchsorted(wanted, found).clip(max=len(wanted) - 1)
    return found[wanted[at] == found]


def main(names: list[str]) -> None:
    runs, found = Runs(), {}
    paragraphs = measured(runs)
    wanted = np.unique(np.concatenate(paragraphs))
    for name in names:
        seen = [shared(r, wanted) for text in dict.fromkeys(trained(name)) if len(r := runs.of(text))]
        hits = np.unique(np.concatenate(seen)) if seen else np.zeros(0, np.uint64)
        share = [float(np.isin(p, hits).mean()) if len(p) else 0.0 for p in paragraphs]
        found[name] = {
            "shared_runs": len(hits),
            "paragraphs": len(paragraphs),
            "with_any": sum(s > 0 for s in share),
            "over_a_fifth": sum(s > 0.2 for s in share),
        }
        print(name, found[name], flush=True)
    out = Path("lab/results/overlap.json")
    kept = json.loads(out.read_text()) if out.exists() else {}
    out.write_text(json.dumps(kept | found, indent=1))


if __name__ == "__main__":
    main(
        sys.argv[1:]
        or [
            "qa/squad",
            "qa/other",
            "qa/qamr",
            "qa/fairytaleqa",
            "qa/wiki_templates",
            "corpus/wiki-00",
            "corpus/wiki-01",
        ]
    )
