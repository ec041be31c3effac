"""What every reader of a format makes: a text with marks in it. `finish` turns it into a Parsed."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

from services.ingest.types import Span


@dataclass(frozen=True)
class Heading:
    title: str
    level: int  # as found; made regular in outline.py
    start: int  # char at which its line begins
    end: int  # just behind its last line


@dataclass
class Draft:
    title: str
    text: str
    headings: list[Heading] = field(default_factory=list)  # these cut blocks
    marks: list[Heading] | None = None  # these make the outline; None: the headings do
    codes: list[Span] = field(default_factory=list)
    page_starts: list[int] = field(default_factory=list)  # char at which page 1, 2, … begins
    warnings: list[str] = field(default_factory=list)


class Lines:
    """Line numbers (from 1) of char offsets. A newline belongs to the line it ends."""

    def __init__(self, text: str):
        self.ends = newlines(text)
        self.size = len(text)

    def at(self, char: int) -> int:
        return bisect_left(self.ends, char) + 1

    def span(self, char: Span) -> Span:
        return self.at(char[0]), self.at(max(char[0], char[1] - 1))

    def starts(self) -> list[int]:
        return [s for s in [0, *(e + 1 for e in self.ends)] if s < self.size]


def newlines(text: str) -> list[int]:
    found, at = [], text.find("\n")
    while at >= 0:
        found.append(at)
        at = text.find("\n", at + 1)
    return found


def page_at(page_starts: list[int], char: int) -> int | None:
    return max(1, bisect_right(page_starts, char)) if page_starts else None
