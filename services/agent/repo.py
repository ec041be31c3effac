"""Which definition does a question mean? All are ranked, the model names a line of the best, the line is checked.

A definition's score is a weighted sum of how it resembles the question (symbols.py); the weights are learned
(`python -m lab.learn functions`) and lie in find.json. What the learning cannot see is added here: docstrings and
comments, which its repositories do not have, tests and examples, and what is asked for by name or by kind.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile
from pathlib import Path

import numpy as np

from services.agent.prompts import find_turn
from services.agent.quotes import quote
from services.agent.retrieve import index_of, terms
from services.agent.symbols import CLASSES, CODE_CHARS, SEEN, index_of_symbols, split, touched
from services.agent.types import Answer, Hit, Origin, SourceView
from services.inference.pb.inference_pb2 import Part
from services.ingest.types import Block, Symbol

WEIGHTS = Path(__file__).with_name("find.json")
MODEL = "model"  # the weight beside those of SEEN: log odds of the candidate that the model points at
CANDIDATES = 6
SHOWN_LINES = 24  # of a candidate's code in the prompt
SHOWN_BUDGET = 3_000  # characters of all candidates together
COMMENT_CHARS = 1_000
DOC_WEIGHT = 0.3  # of BM25 over the comment above and the docstring
NAMES_SYMBOL = 2.0  # for a symbol that the question names letter for letter, when it is no plain word
DOES_IT = 1.5  # for a symbol whose name is the deed asked for: "where is a session restored?", `restore`
ASIDE = -2.0  # for tests and examples, unless they are asked for
ASKED_KIND = 1.0  # for a class when the question says class, a function when it says function
ALSO = 2  # next best candidates told of when the model does not confirm the best
KINDS = {"class": ("class", "type"), "type": ("class", "type"), "struct": ("class", "type"),
         "function": ("function", "method"), "method": ("method",)}  # fmt: skip
SIDE = re.compile(r"(^|/)(tests?|testing|examples?|docs?|benchmarks?)/|(^|/)(test_|conftest)|_test\.|\.(test|spec)\.")
DOCSTRING = re.compile(r":\s*(?:#[^\n]*)?\n\s*[rRuU]?(\"{3}|'{3})(.*?)\1", re.DOTALL)
IDENTIFIER = re.compile(r"[^\W\d]\w*")
PLAIN_WORD = re.compile(r"[^\W\d_]?[^\W\dA-Z_]*")
DECORATION = re.compile(r"\s*(@|#\[|//|/\*|\*|#(?!define))")


@dataclass(frozen=True)
class Candidate:
    view: SourceView
    symbol: Symbol
    score: float

    def code(self) -> str:
        return self.view.text[slice(*self.symbol.char)]

    def offset(self) -> int:
        """Where the definition's line begins inside the code: behind decorators, attributes, comments."""
        at = 0
        for line in self.code().splitlines(keepends=True):
            if re.search(rf"\b{re.escape(self.symbol.name)}\b", line) and not DECORATION.match(line):
                return at
            at += len(line)
        return 0

    def definition(self) -> str:
        """The line that defines it, stripped."""
        return self.code()[self.offset() :].split("\n", 1)[0].strip()

    def line(self) -> int:
        return self.symbol.line[0] + self.code().count("\n", 0, self.offset())

    def hit(self) -> Hit:
        s = self.symbol
        return Hit(Block(0, "code", self.code(), s.char, s.line, None, s.path), self.view.id, self.score)


def comment_above(view: SourceView, symbol: Symbol) -> str:
    """The lines of comment that end where the definition begins."""
    lines = view.text[max(0, symbol.char[0] - COMMENT_CHARS) : symbol.char[0]].splitlines()
    return "\n".join(reversed(list(takewhile(DECORATION.match, reversed(lines)))))


def docstring(code: str) -> str:
    """The first paragraph of a Python docstring."""
    found = DOCSTRING.search(code[:CODE_CHARS])
    return found[2].strip().split("\n\n")[0] if found else ""


@lru_cache(maxsize=4)
def said_of(view: SourceView) -> tuple[str, ...]:
    """What comments and docstrings say of each symbol."""
    code = lambda s: view.text[slice(*s.char)]  # noqa: E731
    return tuple(split(f"{comment_above(view, s)} {docstring(code(s))}") for s in view.symbols)


@lru_cache(maxsize=1)
def weights() -> np.ndarray:
    """[len(SEEN)]"""
    return np.array([learned()[name] for name in SEEN])


@lru_cache(maxsize=1)
def learned() -> dict[str, float]:
    return json.loads(WEIGHTS.read_text())["weights"]


def candidates(views: Sequence[SourceView], question: str, limit: int = CANDIDATES) -> list[Candidate]:
    """Symbols nearest to the question, the likeliest first; `score` is its share of all that resemble it, 0 to 1."""
    found = [(view, n, score) for view in views if view.symbols for n, score in ranked(view, question)]
    if not found:
        return []
    scores = np.array([score for _, _, score in found])
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    best = np.argsort(-shares, kind="stable")[:limit]
    return [Candidate(found[n][0], found[n][0].symbols[found[n][1]], float(shares[n])) for n in best]


def ranked(view: SourceView, question: str) -> list[tuple[int, float]]:
    """(number, score) of the symbols that share a word with the question."""
    seen = index_of_symbols(view).seen(question)
    score, near = seen @ weights(), touched(seen)
    for number, bm25 in index_of(said_of(view)).search(question, len(view.symbols)):
        score[number] += DOC_WEIGHT * bm25
        near[number] = True
    asked = Asked.of(question)
    return [(int(n), float(score[n]) + favour(view.symbols[n], asked)) for n in np.flatnonzero(near)]


@dataclass(frozen=True)
class Asked:
    """What a question names, all of it read once."""

    names: set[str]  # as they are spelt
    words: set[str]  # in small letters
    deeds: set[str]  # stems of its words in -ed

    @classmethod
    def of(cls, question: str) -> "Asked":
        names = set(IDENTIFIER.findall(question))
        words = {name.lower() for name in names}
        return cls(names, words, set(terms(" ".join(word for word in words if word.endswith("ed")))))


def favour(symbol: Symbol, asked: Asked) -> float:
    """What neither words nor weights know about a symbol."""
    words = asked.words
    of_kind = any(symbol.kind in KINDS.get(word, ()) for word in words)
    named = symbol.name in asked.names and not PLAIN_WORD.fullmatch(symbol.name)
    against_classes = float(weights()[SEEN.index("class")])  # it learned from descriptions of functions alone
    sum_of = [
        NAMES_SYMBOL * named,
        DOES_IT * bool(asked.deeds and asked.deeds & set(terms(split(symbol.name)))),
        ASIDE * bool(SIDE.search(symbol.path) and not words & {"test", "tests", "example", "examples"}),
        ASKED_KIND * of_kind,
        -against_classes * ((named or of_kind) and symbol.kind in CLASSES),
    ]
    return float(sum(sum_of))


def prompt(question: str, shown: Sequence[Candidate]) -> list[Part]:
    codes: list[tuple[str, str]] = []
    size = 0
    for candidate in shown:
        code = "".join(candidate.code().splitlines(keepends=True)[:SHOWN_LINES])[: SHOWN_BUDGET // 2]
        size += len(code)
        if not codes or size <= SHOWN_BUDGET:
            codes.append((candidate.symbol.path, code))
    return find_turn(question, codes)


def chosen(quotes: Sequence[str], shown: Sequence[Candidate]) -> Candidate | None:
    """The candidate that the model pointed at, unless another is likelier all the same.

    How far the model moves the odds is learned with the weights: as far as it proved right.
    """
    picked = pointed_at(quotes, shown)
    odds = lambda c: math.log(max(c.score, 1e-12)) + learned()[MODEL] * (c is picked)  # noqa: E731
    return picked if picked and max(shown, key=odds) is picked else None


def pointed_at(quotes: Sequence[str], shown: Sequence[Candidate]) -> Candidate | None:
    """The candidate whose line of definition the model quoted, white space aside."""
    said = {"".join(words.split()) for words in quotes}
    return next((c for c in shown if "".join(c.definition().split()) in said), None)


def composed(
    candidate: Candidate, origin: Origin, hits: list[Hit], confirmed: bool, others: Sequence[Candidate] = ()
) -> Answer:
    """`path:line` and the line itself, quoted; and, when the model did not confirm it, where else it may be."""
    start = candidate.symbol.char[0] + candidate.offset()
    line = candidate.view.text[start:].split("\n", 1)[0]
    start += len(line) - len(line.lstrip())
    note = "" if confirmed else " (located, not confirmed by the model)"
    head = f"`{candidate.symbol.path}:{candidate.line()}`{note}\n"
    q = quote(candidate.view, (start, start + len(line.strip())))
    span = len(head), len(head) + len(q.text)
    cited = replace(q, span=span, path=candidate.symbol.path)
    also = "".join(f"\nalso: `{c.symbol.path}:{c.line()}` {c.symbol.name}" for c in others[:ALSO] if not confirmed)
    return Answer(head + q.text + also, [cited], origin, {}, {}, hits, confirmed=confirmed)
