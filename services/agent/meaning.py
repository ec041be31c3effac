"""Words of descriptions and words of code as directions in one space: `persist` near `save`, which share no letter.

The table (words.npz) is learned by `python -m lab.learn functions` from described functions: two vectors for every
stem, one for questions and one for code, and a weight for every field. Stored as int8 with a scale a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

TABLE = Path(__file__).with_name("words.npz")


@dataclass(frozen=True, eq=False)
class Table:
    """`number` of each stem; `asked` and `code` float32 [stems, size]; `fields` [fields of symbols.FIELDS]."""

    number: dict[str, int]
    asked: np.ndarray
    code: np.ndarray
    fields: np.ndarray

    def save(self, path: Path) -> None:
        asked, asked_scale = rounded(self.asked)
        code, code_scale = rounded(self.code)
        words, fields = np.array("\n".join(self.number)), self.fields.astype(np.float32)
        np.savez_compressed(
            path, words=words, fields=fields, asked=asked, asked_scale=asked_scale, code=code, code_scale=code_scale
        )

    @classmethod
    def load(cls, path: Path) -> "Table":
        with np.load(path) as file:
            asked, code = (file[side].astype(np.float32) * file[f"{side}_scale"] for side in ("asked", "code"))
            words = str(file["words"]).split("\n")
            return cls({word: n for n, word in enumerate(words)}, asked, code, file["fields"])


def rounded(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 rows and the scale of each."""
    scale = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), 1e-9) / 127
    return np.round(vectors / scale).astype(np.int8), scale.astype(np.float32)


@lru_cache(maxsize=1)
def table() -> Table:
    return Table.load(TABLE)


class Meanings:
    """Directions of symbols, [symbols, size], from their fields' stems."""

    def __init__(self, table: Table, rows: Sequence[Sequence[Sequence[str]]]):
        self.table = table
        whole = np.zeros((len(rows), table.code.shape[1]), np.float32)
        for n, row in enumerate(rows):
            for weight, stems in zip(table.fields, row, strict=True):
                whole[n] += weight * added(table.code, table.number, stems)
        self.directions = direction(whole)

    def near(self, stems: Sequence[str]) -> np.ndarray:
        """[symbols] cosines with a question; zero when the table knows none of its words."""
        return self.directions @ direction(added(self.table.asked, self.table.number, stems)[None])[0]


def added(vectors: np.ndarray, number: dict[str, int], stems: Sequence[str]) -> np.ndarray:
    return vectors[[number[stem] for stem in dict.fromkeys(stems) if stem in number]].sum(axis=0)


def direction(whole: np.ndarray) -> np.ndarray:
    return whole / np.maximum(np.linalg.norm(whole, axis=1, keepdims=True), 1e-6)
