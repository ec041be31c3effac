"""The list of what is read one after another: chapters of a document, files of a repository, none too long.

Text that is added at the end leaves the segments before the last one as they were: a reading of the longer text goes on
from a reading of the shorter one. So no cut may depend on what comes long after it.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

from services.ingest.outline import FRONT_CHARS, HOLDS_CHAPTERS
from services.ingest.types import Block, Chapter, Parsed

LONGEST_WORDS = 8_000
CHARS_PER_WORD = 8  # a floor for text without spaces


def segments(parsed: Parsed, longest: int = LONGEST_WORDS) -> list[Chapter]:
    """Level-1 chapters that tile the text; parts and long ones opened into what they hold, what is still long split."""
    chapters = opened(parsed.outline, parsed.blocks, longest)
    starts = [b.char[0] for b in parsed.blocks]
    out: list[Chapter] = []
    for chapter in chapters:
        first, last = (bisect_left(starts, edge) for edge in chapter.char)
        out += split(chapter, parsed.blocks[first:last], longest)
    return out


def weight(text: str) -> int:
    return max(len(text.split()), len(text) // CHARS_PER_WORD)


def opened(outline: list[Chapter], blocks: list[Block], longest: int) -> list[Chapter]:
    """Entries that tile: a chapter whose sections are taken instead gives its first lines to the first of them."""
    starts = [b.char[0] for b in blocks]
    sums = [0, *accumulate(weight(b.text) for b in blocks)]

    def words(c: Chapter) -> int:
        return sums[bisect_left(starts, c.char[1])] - sums[bisect_left(starts, c.char[0])]

    def take(entries: list[Chapter], level: int) -> list[Chapter]:
        out: list[Chapter] = []
        for chapter, inner in groups(entries, level):
            if inner and HOLDS_CHAPTERS.match(chapter.title):
                out += joined(chapter, take(inner, level + 1))
            elif inner and words(chapter) > longest:
                out += packed(joined(chapter, take(inner, level + 1)), words, longest)
            else:
                out.append(replace(chapter, level=1))
        return out

    return take(outline, 1)


def packed(sections: list[Chapter], words: Callable[[Chapter], int], longest: int) -> list[Chapter]:
    """Neighbours together as long as they fit: what was one segment before its chapter grew is still the first."""
    out: list[Chapter] = []
    for section in sections:
        both = (
            replace(out[-1], char=(out[-1].char[0], section.char[1]), line=(out[-1].line[0], section.line[1]))
            if out
            else section
        )
        if out and words(both) <= longest:
            out[-1] = both
        else:
            out.append(section)
    return out


def groups(entries: list[Chapter], level: int) -> list[tuple[Chapter, list[Chapter]]]:
    out: list[tuple[Chapter, list[Chapter]]] = []
    for entry in entries:
        if entry.level <= level or not out:
            out.append((entry, []))
        else:
            out[-1][1].append(entry)
    return out


def joined(parent: Chapter, inner: list[Chapter]) -> list[Chapter]:
    """What stands before the first section: a piece of its own, or the beginning of that section when short."""
    first = inner[0]
    if first.char[0] - parent.char[0] >= FRONT_CHARS:
        char, line = (parent.char[0], first.char[0]), (parent.line[0], max(parent.line[0], first.line[0] - 1))
        return [replace(parent, level=1, char=char, line=line), *inner]
    char, line = (parent.char[0], first.char[1]), (parent.line[0], first.line[1])
    return [replace(first, char=char, line=line, page=parent.page), *inner[1:]]


def split(chapter: Chapter, blocks: list[Block], longest: int) -> list[Chapter]:
    """Pieces filled one after another, so that a chapter which grows keeps the pieces it had."""
    pieces: list[list[Block]] = []
    room = 0
    for block in blocks:
        size = weight(block.text)
        if not pieces or size > room:
            pieces.append([])
            room = longest
        pieces[-1].append(block)
        room -= size
    return [part(chapter, n, piece) for n, piece in enumerate(pieces, 1)] if len(pieces) > 1 else [chapter]


def part(chapter: Chapter, n: int, blocks: list[Block]) -> Chapter:
    char, line = (blocks[0].char[0], blocks[-1].char[1]), (blocks[0].line[0], blocks[-1].line[1])
    return replace(chapter, title=f"{chapter.title} (part {n})", char=char, line=line, page=blocks[0].page)
