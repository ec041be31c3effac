"""A file of a repository to blocks: code cut at symbols or at about 60 lines, prose at paragraphs."""

from bisect import bisect_left
from collections.abc import Iterator

from services.ingest.cut import Cut, cut, split_long
from services.ingest.draft import Lines
from services.ingest.languages import PROSE
from services.ingest.plain import scan_markdown
from services.ingest.types import Symbol

MOST_LINES, FEWEST_LINES, MOST_CHARS = 60, 8, 6_000
COMMENT = ("#", "//", "/*", "*", "@", '"""')


def file_cuts(text: str, language: str | None, symbols: list[Symbol], lines: Lines) -> Iterator[Cut]:
    if language in PROSE:
        headings, codes = scan_markdown(text) if language == "Markdown" else ([], [])
        fixed = [(h.start, h.end, "heading") for h in headings] + [(a, b, "code") for a, b in codes]
        return cut(text, sorted(fixed))
    return code_cuts(text, symbols, lines)


def code_cuts(text: str, symbols: list[Symbol], lines: Lines) -> Iterator[Cut]:
    starts = lines.starts()
    bounds = [*line_bounds(text, symbols, starts), len(starts)]
    at = 0
    for bound in bounds:
        end = starts[bound] if bound < len(starts) else len(text)
        yield from ((a, b, "code") for a, b in split_long(text, at, end, MOST_CHARS))
        at = end


def line_bounds(text: str, symbols: list[Symbol], starts: list[int]) -> list[int]:
    """Lines (from 0) at which a block begins, after the first."""
    out, last = [], 0
    for line in [*symbol_lines(text, symbols, starts), len(starts)]:
        while line - last > MOST_LINES:
            last = blank_near(text, starts, last)
            out.append(last)
        if line < len(starts) and line - last >= FEWEST_LINES:
            out.append(line)
            last = line
    return out


def symbol_lines(text: str, symbols: list[Symbol], starts: list[int]) -> list[int]:
    """Where symbols begin, comments above them included, and where one ends with much else behind it."""
    begins = sorted({above(text, starts, s.line[0] - 1) for s in symbols})
    ends = {s.line[1] for s in symbols if s.line[1] < len(starts)}
    lonely = {e for e in ends if not any(e <= b < e + FEWEST_LINES for b in near(begins, e))}
    return sorted({*begins, *lonely})


def near(begins: list[int], line: int) -> list[int]:
    at = bisect_left(begins, line)
    return begins[at : at + 1]


def above(text: str, starts: list[int], line: int) -> int:
    """Up over the comment lines that stand directly above a definition."""
    while line > 0 and text[starts[line - 1] : starts[line]].strip().startswith(COMMENT):
        line -= 1
    return line


def blank_near(text: str, starts: list[int], last: int) -> int:
    """The last empty line in the second half of the next 60, else the 60th."""
    for line in range(last + MOST_LINES, last + MOST_LINES // 2, -1):
        if line < len(starts) and not text[starts[line - 1] : starts[line]].strip():
            return line
    return last + MOST_LINES
