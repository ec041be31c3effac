"""A draft to the finished Parsed: outline and blocks with their offsets."""

from bisect import bisect_right

from services.ingest.cut import Cut, cut
from services.ingest.draft import Draft, Lines, page_at
from services.ingest.outline import outline_of
from services.ingest.types import Block, Chapter, Parsed


def finish(draft: Draft) -> Parsed:
    lines = Lines(draft.text)
    outline = outline_of(draft, lines)
    blocks = blocks_of(draft, lines, outline)
    return Parsed("document", draft.title, draft.text, blocks, outline, warnings=draft.warnings)


def blocks_of(draft: Draft, lines: Lines, outline: list[Chapter]) -> list[Block]:
    starts = [c.char[0] for c in outline]
    blocks = []
    for n, (a, b, kind) in enumerate(cut(draft.text, fixed_of(draft, starts))):
        page = page_at(draft.page_starts, a)
        chapter = bisect_right(starts, a) - 1
        blocks.append(Block(n, kind, draft.text[a:b], (a, b), lines.span((a, b)), page, None, chapter))
    return blocks


def fixed_of(draft: Draft, starts: list[int]) -> list[Cut]:
    """Headings and code in order, overlaps dropped; an empty cut wherever a chapter begins in between."""
    cuts = [(h.start, h.end, "heading") for h in draft.headings] + [(a, b, "code") for a, b in draft.codes]
    out: list[Cut] = []
    for start, end, kind in sorted(cuts):
        if not out or start >= out[-1][1]:
            out.append((start, end, kind))
    taken = {start for start, _, _ in out}
    edges = [(s, s, "paragraph") for s in starts if s not in taken and not inside(out, s)]
    return sorted([*out, *edges])


def inside(cuts: list[Cut], char: int) -> bool:
    at = bisect_right(cuts, (char, 1 << 62, "")) - 1
    return at >= 0 and cuts[at][0] < char < cuts[at][1]
