"""Which definition does a question mean? BM25 over symbols, then the model names the line, then the line is checked.

A symbol's row holds its name (four times, split into words), its parent and path, the comment above it and its code,
identifiers split.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile

from services.agent.prompts import find_turn
from services.agent.quotes import quote
from services.agent.retrieve import index_of, terms
from services.agent.types import Answer, Hit, Origin, SourceView
from services.inference.pb.inference_pb2 import Part
from services.ingest.types import Block, Symbol

CANDIDATES = 6
SHOWN_LINES = 24  # of a candidate's code in the prompt
SHOWN_BUDGET = 3_000  # characters of all candidates together
ROW_CHARS = 4_000  # of a symbol's code that are indexed
COMMENT_CHARS = 1_000
NAME_WEIGHT = 4
DOC_WEIGHT = 2
NAMES_SYMBOL = 2.0  # score factor for a symbol that the question names letter for letter, when it is no plain word
DOES_IT = 1.5  # for a symbol whose name is the deed asked for: "where is a session restored?", `restore`
ALSO = 2  # next best candidates told of when the model does not confirm the best
ASIDE = 0.4  # for tests and examples, unless they are asked for
ASKED_KIND = 1.5  # for a class when the question says class, a function when it says function
KINDS = {"class": ("class", "type"), "type": ("class", "type"), "struct": ("class", "type"),
         "function": ("function", "method"), "method": ("method",)}  # fmt: skip
SIDE = re.compile(r"(^|/)(tests?|testing|examples?|docs?|benchmarks?)/|(^|/)(test_|conftest)|_test\.|\.(test|spec)\.")
DOCSTRING = re.compile(r":\s*(?:#[^\n]*)?\n\s*[rRuU]?(\"{3}|'{3})(.*?)\1", re.DOTALL)
WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_]+")
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


def split(identifier: str) -> str:
    """`readHTTPHeader`, `read_http_header` → `read HTTP Header`."""
    return " ".join(WORDS.findall(identifier))


def comment_above(view: SourceView, symbol: Symbol) -> str:
    """The lines of comment that end where the definition begins."""
    lines = view.text[max(0, symbol.char[0] - COMMENT_CHARS) : symbol.char[0]].splitlines()
    return "\n".join(reversed(list(takewhile(DECORATION.match, reversed(lines)))))


def docstring(code: str) -> str:
    """The first paragraph of a Python docstring."""
    found = DOCSTRING.search(code[:ROW_CHARS])
    return found[2].strip().split("\n\n")[0] if found else ""


def row(view: SourceView, symbol: Symbol) -> str:
    code = view.text[symbol.char[0] : min(symbol.char[1], symbol.char[0] + ROW_CHARS)]
    name = f"{split(symbol.name)} {symbol.name} "
    said = f"{comment_above(view, symbol)} {docstring(code)} " * DOC_WEIGHT
    rest = (symbol.parent or "", symbol.path, said, code)
    return name * NAME_WEIGHT + " ".join(split(words) for words in rest)


@lru_cache(maxsize=4)
def rows_of(view: SourceView) -> tuple[str, ...]:
    return tuple(row(view, symbol) for symbol in view.symbols)


def candidates(views: Sequence[SourceView], question: str, limit: int = CANDIDATES) -> list[Candidate]:
    """Symbols nearest to the question, best first."""
    pairs = [(view, symbol) for view in views for symbol in view.symbols]
    if not pairs:
        return []
    query = f"{question} {split(question)}"
    found = index_of(tuple(r for view in views for r in rows_of(view))).search(query, 8 * limit)
    ranked = [Candidate(*pairs[n], score * favour(pairs[n][1], question)) for n, score in found]
    return sorted(ranked, key=lambda c: -c.score)[:limit]


def favour(symbol: Symbol, question: str) -> float:
    """What BM25 does not know about a symbol, as a factor."""
    asked = set(IDENTIFIER.findall(question))
    words = {word.lower() for word in asked}
    factor = NAMES_SYMBOL if symbol.name in asked and not PLAIN_WORD.fullmatch(symbol.name) else 1.0
    deeds = terms(" ".join(word for word in words if word.endswith("ed")))
    factor *= DOES_IT if set(deeds) & set(terms(split(symbol.name))) else 1.0
    factor *= ASIDE if SIDE.search(symbol.path) and not words & {"test", "tests", "example", "examples"} else 1.0
    return factor * (ASKED_KIND if any(symbol.kind in KINDS.get(word, ()) for word in words) else 1.0)


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
