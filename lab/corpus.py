"""The corpus as flat arrays of tokens, drawn from by position (`lab.parcel` makes them and takes them along).

Held out, for perplexity and for honest questions: one text in two hundred by its name's hash, nine books by name and
the articles that the `valid` questions are about.
"""

import functools
import random
import zlib
from pathlib import Path

import numpy as np

from lab.pack import PACK, rows
from lab.tokenizer import DOC, FILE

HELD_BOOKS = {  # from every source and of every length; The Wonderful Wizard of Oz among them
    f"book-{number:04}" for number in (3, 28, 67, 103, 130, 228, 312, 362, 387)
}
KINDS = ("wiki", "books", "docs", "code")


@functools.cache
def asked_titles() -> frozenset[str]:
    """Titles of the articles that questions of the valid split are about."""
    valid = (row for row in rows(PACK / "qa/squad.jsonl.zst") if row["split"] == "valid")
    return frozenset(row["title"].replace("_", " ").lower() for row in valid)


def by_hash(row: dict) -> bool:
    return zlib.crc32(row["id"].encode()) % 200 == 0


def held_out(row: dict) -> bool:
    """What the parcels leave out, and so the model that ships."""
    return by_hash(row) or row["id"] in HELD_BOOKS or (row.get("title") or "").lower() in asked_titles()


def text_of(row: dict) -> str:
    """What is read: a file is its path and its text, an article its title and its text."""
    if "path" in row and row["path"] and "/code" in row["part"]:
        return row["path"] + "\n" + row["text"]
    title = row.get("title")
    return f"{title}\n\n{row['text']}" if title and not row["text"].startswith(("#", title)) else row["text"]


class Part:
    """Texts of one kind from one file: `tokens` uint16 [N], `ends` int64 [texts], and their order by length."""

    def __init__(self, folder: Path, stem: str):
        self.kind = stem.split("-")[0]
        self.tokens = np.load(folder / f"{stem}.tokens.npy", mmap_mode="r")
        self.ends = np.load(folder / f"{stem}.ends.npy")
        self.starts = np.concatenate([[0], self.ends[:-1]])
        lengths = self.ends - self.starts
        self.order = np.argsort(-lengths, kind="stable")
        self.longest = lengths[self.order]  # falling
        self.total = np.cumsum(self.longest)

    def at_least(self, size: int) -> int:
        """How many tokens stand in texts of this length or more."""
        count = int(np.searchsorted(-self.longest, -size, side="right"))
        return int(self.total[count - 1]) if count else 0

    def text(self, pick: random.Random, size: int) -> tuple[int, int]:
        """(start, end) of a text of at least `size` tokens, any token of such texts as likely to be hit."""
        at = pick.randrange(self.at_least(size))
        index = self.order[int(np.searchsorted(self.total, at, side="right"))]
        return int(self.starts[index]), int(self.ends[index])


class Corpus:
    """Draws texts and stretches of them; `weights` says how much of each kind is wanted."""

    def __init__(self, folder: Path, weights: dict[str, float]):
        stems = sorted(path.name.split(".")[0] for path in folder.glob("*.tokens.npy"))
        if not stems:
            raise FileNotFoundError(f"no *.tokens.npy in {folder}: unpack a parcel first (python -m lab.parcel unpack)")
        self.parts, self.weights = [Part(folder, stem) for stem in stems], weights
        self.whole = {kind: sum(len(p.tokens) for p in self.parts if p.kind == kind) for kind in KINDS}

    def choose(self, pick: random.Random, size: int, prose: bool) -> Part | None:
        """A part by its kind's weight and its tokens in texts of at least `size`."""
        shares = [
            0.0 if prose and p.kind == "code" else self.weights[p.kind] * p.at_least(size) / self.whole[p.kind]
            for p in self.parts
        ]
        return pick.choices(self.parts, shares)[0] if any(shares) else None

    def draw(self, pick: random.Random, limit: int, prose: bool = False, least: int = 1) -> tuple[int, np.ndarray]:
        """(marker, tokens): a text of at least `least` tokens if there is one, or a stretch of it of `limit` tokens."""
        part = self.choose(pick, least, prose)
        while part is None:
            least //= 2
            part = self.choose(pick, least, prose)
        start, end = part.text(pick, least)
        if end - start > limit:
            start = pick.randrange(start, end - limit + 1) if pick.random() < 0.8 else start
            end = start + limit
        return (FILE if part.kind == "code" else DOC), np.array(part.tokens[start:end])
