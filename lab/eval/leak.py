"""Is anything that is measured on in what was trained on? Runs of thirteen words, by hash, over the whole pack.

Words are runs of letters, digits and underscores, lower case; of bytes above 127 all but dashes and quotation marks
are letters. A run's hash is taken modulo 2^64 in one sweep over a text's bytes: a word is a difference of prefix
sums, a run a weighted sum of thirteen words.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np

from lab.corpus import held_out
from lab.eval.items import Missing, held_texts, valid
from lab.eval.run import Figures, Run
from lab.pack import PACK, rows
from lab.scoring import mean

RUN = 13
BASE = 0x9E3779B97F4A7C15 | 1
WORD = np.array([chr(c).isalnum() or c == 95 or c > 127 for c in range(256)])
PRIMES = np.random.default_rng(0).integers(1, 2**63, RUN, dtype=np.uint64) | np.uint64(1)
CHAPTERS = ("textbooks", "wiki_leads", "design_docs")
SETS: dict[str, Callable[[], Sequence[str]]] = {
    "squad": lambda: list(dict.fromkeys(row["context"] for row in valid("qa/squad"))),
    "summaries": lambda: [row["document"] for name in CHAPTERS for row in valid(f"summ/{name}")],
    "functions": lambda: [row["code"] for row in valid("repoqa/functions")],
    "bits": lambda: [words for kind in ("wiki", "docs", "code", "books") for words in held_texts(kind, untouched=True)],
}


def measure(run: Run) -> Figures:
    """Of every set: the share of texts of which more than a fifth of the runs was trained on; `any`: at least one."""
    files = sorted(path for part in ("corpus", "qa", "summ", "repoqa") for path in (PACK / part).glob("*.jsonl.zst"))
    if not files:
        raise Missing(f"{PACK} holds no training data to compare with: put the pack (../shared/data) there")
    run.total(len(files))
    sets = {name: [hashes(words) for words in made()] for name, made in SETS.items()}
    wanted = np.unique(np.concatenate([h for texts in sets.values() for h in texts]))
    seen = {"tasks": np.zeros(len(wanted), bool), "corpus": np.zeros(len(wanted), bool)}
    for path in files:
        mark(seen["corpus" if path.parent.name == "corpus" else "tasks"], wanted, trained(path))
        run.step()
    out: Figures = {}
    for name, texts in sets.items():
        for part, hit in seen.items():
            share = [float(hit[np.searchsorted(wanted, h)].mean()) for h in texts if len(h)]
            out[f"leak.{name}.in_{part}"] = mean([float(s > 0.2) for s in share]) | {
                "unit": "% of texts with over a fifth of their 13-word runs",
                "any": round(100 * sum(s > 0 for s in share) / len(share), 2),
            }
    return out


def trained(path) -> Iterator[str]:
    """Texts of a file of the pack that training may have read."""
    for row in rows(path):
        if path.parent.name == "corpus":
            if not held_out(row):
                yield row["text"]
        elif row.get("split", "train") == "train":
            yield from (row[name] for name in ("context", "document", "code", "text") if row.get(name))


def mark(seen: np.ndarray, wanted: np.ndarray, texts: Iterator[str]) -> None:
    for words in texts:
        found = hashes(words)
        at = np.searchsorted(wanted, found).clip(max=len(wanted) - 1)
        seen[at[wanted[at] == found]] = True


@lru_cache(maxsize=1)
def powers(size: int) -> tuple[np.ndarray, np.ndarray]:
    """BASE^n and BASE^-n modulo 2^64, n below size."""
    inverse = pow(BASE, -1, 2**64)
    steps = np.full((2, size), [[BASE], [inverse]], dtype=np.uint64)
    steps[:, 0] = 1
    return tuple(np.cumprod(steps, axis=1, dtype=np.uint64))


def letters(data: np.ndarray) -> np.ndarray:
    """Which bytes are a word's: not those of the dashes and quotation marks from U+2000 to U+203F (E2 80 xx)."""
    marks = np.flatnonzero((data[:-2] == 0xE2) & (data[1:-1] == 0x80))
    inside = WORD[data]
    inside[marks[:, None] + np.arange(3)] = False
    return inside


def hashes(words: str) -> np.ndarray:
    """One number for each run of thirteen words, in order; none for a shorter text."""
    data = np.frombuffer(words.lower().encode(), np.uint8)
    inside = np.concatenate([[False], letters(data), [False]])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, ends = edges[::2], edges[1::2]
    if len(starts) < RUN:
        return np.zeros(0, np.uint64)
    up, down = (table[: len(data)] for table in powers(1 << (max(len(data), 1 << 22) - 1).bit_length()))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum((data + np.uint64(1)) * up, dtype=np.uint64)])
    word = (sums[ends] - sums[starts]) * down[starts]
    return sum(word[i : len(word) - RUN + 1 + i] * PRIMES[i] for i in range(RUN))
