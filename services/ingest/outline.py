"""Headings to an outline whose level-1 entries tile the text and whose deeper entries nest."""

import re
from collections import Counter

from services.ingest.cut import GAP
from services.ingest.draft import Draft, Heading, Lines, page_at
from services.ingest.types import Chapter, Span

FRONT_CHARS = 800  # text before the first heading that is worth an entry of its own
PART_CHARS = 30_000  # about 5,000 words
MOST_ENTRIES = 5_000
HOLDS_CHAPTERS = re.compile(r"(?i)(part|book|volume|act)\b")


def outline_of(draft: Draft, lines: Lines) -> list[Chapter]:
    headings = regular(draft.headings if draft.marks is None else draft.marks, len(draft.text))
    if not headings:
        return [entry(draft, lines, f"Part {n}", 1, span) for n, span in enumerate(part_spans(draft.text), 1)]
    headings = with_front(draft.text, headings)
    ends = ends_of(headings, len(draft.text))
    return [entry(draft, lines, h.title, h.level, (h.start, end)) for h, end in zip(headings, ends, strict=True)]


def entry(draft: Draft, lines: Lines, title: str, level: int, char: Span) -> Chapter:
    return Chapter(title, level, char, lines.span(char), page_at(draft.page_starts, char[0]))


def regular(headings: list[Heading], size: int) -> list[Heading]:
    """In order, few enough, without the document's own title, levels from 1 without holes."""
    headings = drop_title(few(sorted(headings, key=lambda h: h.start)))
    ranks = {level: n for n, level in enumerate(sorted({h.level for h in headings}), 1)}
    out: list[Heading] = []
    for h in headings:
        deepest = out[-1].level + 1 if out else 1
        out.append(Heading(h.title, min(ranks[h.level], deepest), h.start, h.end))
    return unwrap(out, size)


def unwrap(headings: list[Heading], size: int) -> list[Heading]:
    """An entry around most of the text (a half title, a site's name) gives its place to the chapters in it."""
    for n, (h, end) in enumerate(zip(headings, ends_of(headings, size), strict=True)):
        inner = [k for k in headings[n + 1 :] if k.start < end]
        wraps = h.level == 1 and end - h.start > 0.6 * size and not HOLDS_CHAPTERS.match(h.title)
        if wraps and sum(k.level == 2 for k in inner) >= 2:
            raised = [Heading(k.title, k.level - 1, k.start, k.end) for k in inner]
            if raised[0].start - h.start < FRONT_CHARS:
                raised[0] = Heading(raised[0].title, 1, h.start, raised[0].end)
                return unwrap([*headings[:n], *raised, *headings[n + 1 + len(inner) :]], size)
            return unwrap([*headings[: n + 1], *raised, *headings[n + 1 + len(inner) :]], size)
    return headings


def drop_title(headings: list[Heading]) -> list[Heading]:
    """A single top heading over all the others is the title of the document, not a chapter."""
    levels = Counter(h.level for h in headings)
    while len(headings) > 2 and headings[0].level == min(levels) and levels[headings[0].level] == 1:
        del levels[headings[0].level]
        headings = headings[1:]
    return headings


def few(headings: list[Heading]) -> list[Heading]:
    """Leave out the deepest levels while there are more entries than anybody reads."""
    while len(headings) > MOST_ENTRIES:
        deepest = max(h.level for h in headings)
        headings = [h for h in headings if h.level < deepest]
    return headings


def with_front(text: str, headings: list[Heading]) -> list[Heading]:
    first = headings[0]
    if len(text[: first.start].strip()) >= FRONT_CHARS:
        return [Heading("Front matter", 1, 0, 0), *headings]
    return [Heading(first.title, first.level, 0, first.end), *headings[1:]]


def ends_of(headings: list[Heading], size: int) -> list[int]:
    """An entry ends where the next one of its level or above begins."""
    ends, open_ends = [0] * len(headings), [size] * 12
    for n in range(len(headings) - 1, -1, -1):
        level = min(headings[n].level, 11)
        ends[n] = min(open_ends[: level + 1])
        open_ends[level] = headings[n].start
        open_ends[level + 1 :] = [size] * (11 - level)
    return ends


def part_spans(text: str, longest: int = PART_CHARS) -> list[Span]:
    """Parts of this size, cut at the next paragraph end; a text that grows keeps them, but for the last."""
    spans, at = [], 0
    while len(text) - at > longest + longest // 4:
        stop = paragraph_end(text, at + longest)
        spans.append((at, stop))
        at = stop
    return [*spans, (at, len(text))]


def paragraph_end(text: str, near: int, reach: int = PART_CHARS // 4) -> int:
    gap = GAP.search(text, near, min(len(text), near + reach))
    if gap:
        return gap.end()
    newline = text.find("\n", near, near + reach)
    return newline + 1 if newline >= 0 else near
