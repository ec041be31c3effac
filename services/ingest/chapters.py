"""Chapter headings in plain text, where nothing marks them but their look."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from services.ingest.draft import Heading

ROMAN = r"(?=[IVXLCivxlc])(?:C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})"
WORDS = "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|" \
    "eighteen|nineteen|twenty|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|last|the"  # fmt: skip
UPPER = {"part", "book", "volume", "act"}
NAMED = re.compile(
    rf"(?i)(chapter|letter|part|book|volume|canto|act|scene|section|stave|epistle|staff)\s+"
    rf"(?:{ROMAN}|\d{{1,4}}|[A-H](?=[.:\s]|$)|(?:{WORDS})(?:[ -](?:{WORDS}))?)(?![\w'’])[\s.:—–-]*(.*)$"
)
ALONE = re.compile(
    r"(?i)(?:the\s+)?(prologue|epilogue|introduction|preface|foreword|afterword|appendix(?:\s+\w{1,4})?|conclusion|"
    r"postscript|acknowledge?ments|glossary|bibliography)\.?$"
)
BARE = re.compile(rf"({ROMAN}|\d{{1,3}})(?:\.|:|\))?$")
TITLED = re.compile(rf"({ROMAN}|\d{{1,3}})(?:[.:)—–-]\s+|\s{{2,}})(\S.*)$")
HASHES = re.compile(r"(#{1,6})[ \t]+(\S.*?)[ \t]*#*$")
GUTENBERG_START = re.compile(r"^\*\*\* ?START OF TH[^\n]*\n", re.M)
GUTENBERG_END = re.compile(r"^\*\*\* ?END OF TH[^\n]*", re.M)
LONGEST = 120
LEVEL_OF_CHAPTER = 2


@dataclass(frozen=True)
class Line:
    text: str  # stripped
    start: int
    end: int  # behind the newline
    blank_before: bool
    after: str  # the next line, stripped


def find_chapters(text: str) -> list[Heading]:
    """Headings of the body, between Project Gutenberg's header and footer where there are such."""
    first, last = body_of(text)
    lines = [line for line in short_lines(text) if first <= line.start < last]
    found = drop_contents(text, choose(lines), last)
    return found + back_matter(text, last, min((h.level for h in found), default=1))


def back_matter(text: str, start: int, level: int) -> list[Heading]:
    return [Heading("Back matter", level, start, footer_end(text, start))] if start < len(text) else []


def body_of(text: str) -> tuple[int, int]:
    start, end = GUTENBERG_START.search(text), GUTENBERG_END.search(text)
    return (start.end() if start else 0), (end.start() if end else len(text))


def footer_end(text: str, start: int) -> int:
    stop = text.find("\n", start)
    return len(text) if stop < 0 else stop + 1


def short_lines(text: str) -> list[Line]:
    """Lines that could be a heading: short and with an empty line before them."""
    out, at, blank = [], 0, True
    while at < len(text):
        stop = text.find("\n", at)
        end = len(text) if stop < 0 else stop + 1
        line = text[at:end].strip() if end - at <= 2 * LONGEST else text[at : at + LONGEST]
        if blank and line and end - at <= LONGEST:
            out.append(Line(line, at, end, blank, next_line(text, end)))
        at, blank = end, not line.strip()
    return out


def next_line(text: str, at: int) -> str:
    stop = text.find("\n", at, at + LONGEST)
    return text[at : stop if stop >= 0 else at + LONGEST].strip()


def choose(lines: list[Line]) -> list[Heading]:
    """The first look that the text uses throughout: Markdown's, named chapters, roman or plain numbers, capitals."""
    hashes = list(hash_headings(lines))
    if len(hashes) >= 2:
        return hashes
    named, alone = list(named_headings(lines)), list(alone_headings(lines))
    if sum(1 for h in named if h.level == LEVEL_OF_CHAPTER) >= 2:
        return merge(named, alone)
    for pattern in (BARE, TITLED):
        numbered = list(number_headings(lines, pattern))
        if len(numbered) >= 2:
            return merge(numbered, named, alone)
    capitals = list(capital_headings(lines)) if not named else []
    return merge(named, alone, capitals if len(capitals) >= 3 else [])


def merge(*lists: list[Heading]) -> list[Heading]:
    first = {h.start: h for found in reversed(lists) for h in found}
    return [first[start] for start in sorted(first)]


def hash_headings(lines: list[Line]) -> Iterator[Heading]:
    for line in lines:
        if match := HASHES.match(line.text):
            yield Heading(match[2], len(match[1]), line.start, line.end)


def named_headings(lines: list[Line]) -> Iterator[Heading]:
    """`Chapter IV`, `CHAPTER 12. A Title`, `Letter 1`; a title may stand on the next line."""
    for line in lines:
        match = NAMED.match(line.text)
        if match and looks_like_title(match[2]) and (not line.after or is_subtitle(line, match[2])):
            level = 1 if match[1].lower() in UPPER else LEVEL_OF_CHAPTER
            yield with_subtitle(line, level)


def is_subtitle(line: Line, title: str) -> bool:
    return not title and len(line.after) < 80 and looks_like_title(line.after)


def with_subtitle(line: Line, level: int) -> Heading:
    title = f"{line.text.rstrip('.:')}: {line.after}" if line.after else line.text
    return Heading(tidy(title), level, line.start, line.end + (len(line.after) + 1 if line.after else 0))


def looks_like_title(words: str) -> bool:
    """Empty, or begins like one and does not run on like a sentence."""
    return not words or (not words[0].islower() and not words.endswith((",", ";")) and len(words) < 100)


def alone_headings(lines: list[Line]) -> Iterator[Heading]:
    for line in lines:
        if not line.after and ALONE.match(line.text):
            yield Heading(tidy(line.text), LEVEL_OF_CHAPTER, line.start, line.end)


def number_headings(lines: list[Line], pattern: re.Pattern[str]) -> Iterator[Heading]:
    """Numbers that count up from one; a new part may begin at one again."""
    last = 0
    for line in lines:
        match = pattern.match(line.text)
        number = value_of(match[1]) if match and not line.after else 0
        if match and number and number in (last + 1, 1) and looks_like_title(match[2] if pattern is TITLED else ""):
            last = number
            yield Heading(tidy(line.text), LEVEL_OF_CHAPTER, line.start, line.end)


def value_of(number: str) -> int:
    if number.isdigit():
        return int(number)
    values = [{"i": 1, "v": 5, "x": 10, "l": 50, "c": 100}[c] for c in number.lower()]
    return sum(-v if any(w > v for w in values[n + 1 : n + 2]) else v for n, v in enumerate(values))


def capital_headings(lines: list[Line]) -> Iterator[Heading]:
    for line in lines:
        if not line.after and 3 < len(line.text) < 60 and line.text.isupper() and line.text[-1] not in ",;!?":
            yield Heading(tidy(line.text), LEVEL_OF_CHAPTER, line.start, line.end)


def drop_contents(text: str, found: list[Heading], last: int) -> list[Heading]:
    """A heading with nothing below it whose words come again later is a line of the table of contents."""
    key: Callable[[Heading], str] = lambda h: re.sub(r"\W+", " ", h.title).strip().lower()[:24]  # noqa: E731
    final = {key(h): h.start for h in found}
    ends = [*(h.start for h in found[1:]), last][: len(found)]
    thin = [len(text[h.end : end].strip()) < 60 for h, end in zip(found, ends, strict=True)]
    return [h for h, empty in zip(found, thin, strict=True) if not (empty and final[key(h)] > h.start)]


def tidy(title: str) -> str:
    return re.sub(r"\s+", " ", title).strip().strip("*_").strip()
