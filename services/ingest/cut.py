"""Text to block spans: paragraphs of at most ~1,500 characters, cut at sentences if longer."""

import re
from collections.abc import Iterator

from services.ingest.types import Span

LONGEST = 1500
GAP = re.compile(r"\n(?:[ \t\f]*\n)+")
BLANK_LINES = re.compile(r"(?:[ \t\f]*\n)*")
SENTENCE_END = re.compile(r"[.!?…][\"'”’»)\]]*\s+|[。！？]+[」』”]?|\n")

Cut = tuple[int, int, str]  # start, end, kind


def cut(text: str, fixed: list[Cut]) -> Iterator[Cut]:
    """Spans that tile `text`: the fixed ones (headings, code) as they are, paragraphs between them."""
    at = 0
    for start, end, kind in fixed:
        if at < start and (at or text[:start].strip()):  # empty lines at the very top join what follows
            yield from paragraphs(text, at, start)
            at = start
        end = max(at, swallow_blank(text, end) if end > start else start)
        yield from ((a, b, kind) for a, b in split_long(text, at, end))
        at = end
    if at < len(text):
        yield from paragraphs(text, at, len(text))


def swallow_blank(text: str, end: int) -> int:
    """`end`, moved behind the blank lines that follow it."""
    match = BLANK_LINES.match(text, end)
    return match.end() if match else end


def paragraphs(text: str, start: int, end: int) -> Iterator[Cut]:
    for a, b in paragraph_spans(text, start, end):
        yield from ((x, y, "paragraph") for x, y in split_long(text, a, b))


def paragraph_spans(text: str, start: int, end: int) -> Iterator[Span]:
    """Paragraphs with the blank lines behind them; blank lines in front of the first one join it."""
    at = start
    for gap in GAP.finditer(text, start, end):
        if gap.end() < end and not text[at : gap.start()].isspace() and gap.start() > at:
            yield at, gap.end()
            at = gap.end()
    yield at, end


def split_long(text: str, start: int, end: int, longest: int = LONGEST) -> Iterator[Span]:
    while end - start > longest:
        middle = good_cut(text, start, longest)
        yield start, middle
        start = middle
    if start < end:
        yield start, end


def good_cut(text: str, start: int, longest: int) -> int:
    """Behind the last sentence of the window, else behind its last space, else at its end."""
    window = text[start : start + longest]
    ends = [m.end() for m in SENTENCE_END.finditer(window)]
    if ends and ends[-1] > longest // 4:
        return start + ends[-1]
    space = max(window.rfind(" "), window.rfind("\t"))
    return start + (space + 1 if space > longest // 4 else longest)
