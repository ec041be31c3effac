"""Sentences of prose as spans: in order, apart, and everything between them is white space."""

import re
from collections.abc import Iterator
from itertools import pairwise

from services.ingest.types import Span

NEVER_LAST = frozenset(
    "mr mrs ms dr prof rev hon st mt capt col gen lt maj sgt messrs mme mlle e.g i.e cf viz vs".split()  # noqa: SIM905
)
BEFORE_NUMBER = frozenset("no nos fig figs vol vols pp eq sec ch chap art".split())  # noqa: SIM905
ENDER = re.compile(r"(?:[.!?…]+|[。！？]+)[\"'”’»)\]*_]*")
PARAGRAPH = re.compile(r"[ \t]*\n(?:[ \t]*\n)+|\n(?=[ \t]*(?:#{1,6} |[-*+] |\d{1,3}[.)] |>|\|))")
HEADING = re.compile(r"^[ \t]*#{1,6} [^\n]*\n", re.M)
LAST_WORD = re.compile(r"([\w.’'-]+)$")
OPENS = re.compile(r"[\"'“‘«(\[*_—–-]*(.)", re.S)
CJK = "。！？"


def sentences(text: str) -> list[Span]:
    return [span for a, b in paragraphs(text) for span in within(text, a, b)]


def paragraphs(text: str) -> Iterator[Span]:
    """Stretches that no sentence crosses: split at empty lines, around headings, before list items."""
    edges = {0, len(text)}
    edges.update(m.end() for m in PARAGRAPH.finditer(text))
    for heading in HEADING.finditer(text):
        edges.update(heading.span())
    ordered = sorted(edges)
    yield from pairwise(ordered)


def within(text: str, start: int, stop: int) -> Iterator[Span]:
    """Sentences of one paragraph, trimmed."""
    begin = start
    for ender in ENDER.finditer(text, start, stop):
        if ends_here(text, begin, ender, stop):
            yield from trim(text, begin, ender.end())
            begin = ender.end()
    yield from trim(text, begin, stop)


def ends_here(text: str, begin: int, ender: re.Match[str], stop: int) -> bool:
    end = ender.end()
    if end >= stop or ender[0][0] in CJK:
        return True
    if not text[end].isspace():
        return False
    following = OPENS.match(text[end:stop].lstrip())
    first = following[1] if following else ""
    if first.islower():
        return False
    return not (ender[0] == "." and abbreviated(text[begin : ender.start()], first))


def abbreviated(before: str, first: str) -> bool:
    """The full stop belongs to a word such as `Mr`, an initial, or `No` with a number behind it."""
    word = LAST_WORD.search(before)
    if not word:
        return False
    last = word[1].lower().lstrip("'’").split("-")[-1]
    if last in NEVER_LAST:
        return True
    if len(last) == 1 and last.isalpha() and last != "i":
        return word[1].isupper()
    return last in BEFORE_NUMBER and first.isdigit()


def trim(text: str, a: int, b: int) -> Iterator[Span]:
    while a < b and text[a].isspace():
        a += 1
    while b > a and text[b - 1].isspace():
        b -= 1
    if a < b:
        yield a, b
