"""The list of what is read one after another: chapters of a document, files of a repository, none too long."""

from bisect import bisect_left
from dataclasses import replace
from itertools import accumulate, pairwise

from services.ingest.outline import FRONT_CHARS, HOLDS_CHAPTERS
from services.ingest.types import Block, Chapter, Parsed

LONGEST_WORDS = 8_000
CHARS_PER_WORD = 8  # a floor for text without spaces


def segments(parsed: Parsed, longest: int = LONGEST_WORDS) -> list[Chapter]:
    """Level-1 chapters that tile the text; parts and long ones opened into what they hold, the rest split evenly."""
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
            wide = words(chapter) > longest or HOLDS_CHAPTERS.match(chapter.title)
            out += joined(chapter, take(inner, level + 1)) if inner and wide else [replace(chapter, level=1)]
        return out

    return take(outline, 1)


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
    weights = [weight(b.text) for b in blocks]
    parts = -(-sum(weights) // longest)
    if parts <= 1:
        return [chapter]
    sums = list(accumulate(weights))
    cuts = sorted({bisect_left(sums, sums[-1] * n // parts) + 1 for n in range(1, parts)})
    edges = [0, *(c for c in cuts if c < len(blocks)), len(blocks)]
    pieces = [blocks[a:b] for a, b in pairwise(edges)]
    return [part(chapter, n, piece) for n, piece in enumerate(pieces, 1)]


def part(chapter: Chapter, n: int, blocks: list[Block]) -> Chapter:
    char, line = (blocks[0].char[0], blocks[-1].char[1]), (blocks[0].line[0], blocks[-1].line[1])
    return replace(chapter, title=f"{chapter.title} (part {n})", char=char, line=line, page=blocks[0].page)
