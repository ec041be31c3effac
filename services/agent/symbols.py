"""What a repository's definitions say, in stems, and how each of them resembles a question.

Five fields a symbol (name, parent, path, signature, code) are scored by BM25 each; a name counts also where it is a
piece of a word of the question or the other way round (`dir`, `directory`); `meaning` compares directions (meaning.py).
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from services.agent.meaning import Meanings, Table, table
from services.agent.retrieve import analyser, terms
from services.agent.types import SourceView
from services.ingest.types import Symbol

CODE_CHARS = 4_000  # of a symbol's code that are indexed
FIELDS = ("name", "parent", "path", "signature", "code")
SEEN = (*FIELDS, "name's pieces", "share of the name", "share of the question", "code around", "meaning",
        "class", "private", "special", "log lines", "same name", "overload")  # fmt: skip
K1, B = 1.2, 0.75  # BM25's usual constants
PIECE, WORD_IN = 3, 4  # letters of a name's piece that begins a word; of a word inside another
WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_]+")
OVERLOAD = re.compile(r"\s*@(?:\w+\.)*overload\b")
CLASSES = ("class", "type")


def split(identifier: str) -> str:
    """`readHTTPHeader`, `read_http_header` → `read HTTP Header`."""
    return " ".join(WORDS.findall(identifier))


def stems(text: str) -> list[str]:
    return analyser().analyze(split(text))


@lru_cache(maxsize=4_096)
def path_stems(path: str) -> list[str]:
    return stems(path.rsplit(".", 1)[0])


def fields(view: SourceView, symbol: Symbol) -> dict[str, list[str]]:
    code = view.text[symbol.char[0] : min(symbol.char[1], symbol.char[0] + CODE_CHARS)]
    rows = stems(symbol.name), stems(symbol.parent or ""), path_stems(symbol.path), stems(symbol.signature), stems(code)
    return dict(zip(FIELDS, rows, strict=True))


def asked(question: str) -> list[str]:
    """Stems of the question, each once, identifiers also split."""
    return list(dict.fromkeys(terms(f"{question} {split(question)}")))


class Postings:
    """One field of all symbols: in which a stem occurs, and BM25's share of it that does not depend on rarity."""

    def __init__(self, rows: Sequence[Sequence[str]]):
        sizes = np.array([len(row) for row in rows], float)
        norm = K1 * (1 - B + B * sizes / max(1.0, sizes.mean() if len(sizes) else 1.0))
        found: dict[str, list[tuple[int, int]]] = {}
        for number, row in enumerate(rows):
            for stem, count in Counter(row).items():
                found.setdefault(stem, []).append((number, count))
        self.of: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for stem, places in found.items():
            numbers, counts = np.array(places).T
            self.of[stem] = numbers, counts * (K1 + 1) / (counts + norm[numbers])

    def add(self, to: np.ndarray, stem: str, rarity: float, counted: bool = True) -> None:
        """To every symbol that has the stem: its rarity, times BM25's share when it is counted."""
        if stem in self.of:
            numbers, shares = self.of[stem]
            to[numbers] += rarity * (shares if counted else 1.0)


class SymbolIndex:
    """Of one view; `seen` is a table [symbols, len(SEEN)]."""

    def __init__(self, view: SourceView, words: Table | None = None):
        rows = [fields(view, symbol) for symbol in view.symbols]
        self.size = len(rows)
        self.postings = {field: Postings([row[field] for row in rows]) for field in FIELDS}
        self.spread = Counter(stem for row in rows for stem in {*row["name"], *row["path"], *row["code"]})
        self.names = {stem for row in rows for stem in row["name"] if len(stem) >= PIECE}
        self.name_rarity = np.array([sum(map(self.rarity, set(row["name"]))) for row in rows])
        self.around = around(view.symbols)
        self.fixed = fixed(view)
        self.meanings = Meanings(words or table(), [list(row.values()) for row in rows])

    def rarity(self, stem: str) -> float:
        return math.log(1 + (self.size - self.spread[stem] + 0.5) / (self.spread[stem] + 0.5))

    def seen(self, question: str) -> np.ndarray:
        """All zero but for meaning and what is fixed where nothing of the question occurs; see `touched`."""
        wanted = asked(question)
        bm25 = np.zeros((self.size, len(FIELDS)))
        named, pieces, held = np.zeros(self.size), np.zeros(self.size), np.zeros(self.size)
        for stem in wanted:
            rarity = self.rarity(stem)
            for n, field in enumerate(FIELDS):
                self.postings[field].add(bm25[:, n], stem, rarity)
            self.postings["name"].add(named, stem, rarity, counted=False)
            self.postings["code"].add(held, stem, rarity, counted=False)
        for piece in self.pieces_of(question, wanted):
            self.postings["name"].add(pieces, piece, self.rarity(piece), counted=False)
        share = (named + pieces) / np.maximum(1e-9, self.name_rarity)
        held /= sum(map(self.rarity, wanted)) or 1.0
        code = bm25[:, FIELDS.index("code")]
        around = np.where(self.around >= 0, code[self.around], 0.0)
        return np.column_stack([bm25, pieces, share, held, around, self.meanings.near(wanted), self.fixed])

    def pieces_of(self, question: str, wanted: Iterable[str]) -> list[str]:
        """Stems of names that begin a word of the question or are in it, or hold one, without being one."""
        words = {w.lower() for w in WORDS.findall(question) if len(w) >= PIECE and analyser().analyze(w)}
        return sorted(name for name in self.names.difference(wanted) if any(piece(name, word) for word in words))


def piece(name: str, word: str) -> bool:
    inside = (len(word) >= WORD_IN and word in name) or (len(name) >= WORD_IN and name in word)
    return word.startswith(name) or inside


def touched(seen: np.ndarray) -> np.ndarray:
    """Which symbols share a word, or a piece of one, with the question."""
    return np.asarray(seen[:, : SEEN.index("name's pieces") + 1].any(axis=1))


def around(symbols: Sequence[Symbol]) -> np.ndarray:
    """The number of the class that each symbol stands in, or -1."""
    classes = {(s.path, s.name): n for n, s in enumerate(symbols) if s.kind in CLASSES}
    homes = [classes.get((s.path, (s.parent or "").rsplit(".", 1)[-1]), -1) for s in symbols]
    return np.array(homes, int)


def fixed(view: SourceView) -> np.ndarray:
    """What does not depend on the question. Lines are counted without empty ones: those tell of docstrings cut out."""
    same = Counter(symbol.name for symbol in view.symbols)
    rows = []
    for s in view.symbols:
        code = view.text[slice(*s.char)]
        special = s.name.startswith("__")
        private = s.name.startswith("_") and not special
        lines = sum(1 for line in code.splitlines() if line.strip())
        traits = (
            s.kind in CLASSES,
            private,
            special,
            math.log(max(1, lines)),
            math.log(same[s.name]),
            bool(OVERLOAD.match(code)),
        )
        rows.append([float(trait) for trait in traits])
    return np.array(rows, float).reshape(len(view.symbols), 6)


@lru_cache(maxsize=8)
def index_of_symbols(view: SourceView) -> SymbolIndex:
    return SymbolIndex(view)
