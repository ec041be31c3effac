"""Lines on pages to one text: paragraphs and hyphens by the look of the page, running heads dropped."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

DROP_HYPHEN = "-"
END_WORD, START_WORD = re.compile(r"[^\W\d_]+$"), re.compile(r"[^\W\d_]+")
HYPHENS = "-\u00ad\u2010\x02\ufffe"
SOFT = re.compile("[\u00ad\x02\ufffe]")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
PAGE_NUMBER = re.compile(r"(?i)[\s\-–—|\[]*(?:page\s+)?(?:\d{1,5}|[ivxlc]{1,7})(?:\s+of\s+\d+)?[\s\-–—|\]]*$")
SENTENCE_END = (".", "!", "?", ":", "”", '"', "…", "’", ")")


@dataclass(frozen=True)
class Line:
    text: str
    page: int  # from 0
    left: float
    right: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Look:
    """How the text stands: margins of this page; line step and last line's height usual in the document."""

    left: float
    right: float
    step: float
    floor: float
    indents: bool = False  # paragraphs begin with an indented line
    hyphens_stay: bool = False


def drop_running_heads(pages: list[list[Line]]) -> list[list[Line]]:
    """Page numbers, and first or last lines that come again on many pages but for their digits."""
    shape = lambda line: re.sub(r"\d+", "#", line.text).strip().lower()  # noqa: E731
    edges = Counter(s for page in pages if page for s in {shape(page[0]), shape(page[-1])})
    often = {s for s, count in edges.items() if count >= max(4, len(pages) // 4)}
    out = []
    for page in pages:
        for at in (0, -1):
            if len(page) > 1 and (shape(page[at]) in often or (len(pages) > 3 and is_number(page, at))):
                page = page[1:] if at == 0 else page[:-1]
        out.append(page)
    return out


def is_number(page: list[Line], at: int) -> bool:
    """A number alone at the foot, or at the head if it is in digits: a roman one there may be a chapter's."""
    text = page[at].text
    return bool(PAGE_NUMBER.match(text)) and (at == -1 or any(c.isdigit() for c in text)) and far(page, at)


def far(page: list[Line], at: int) -> bool:
    """Set apart from its neighbour by more than the usual line step."""
    steps = [a.bottom - b.bottom for a, b in pairwise(page)]
    return len(steps) < 3 or abs(steps[at]) > 1.3 * median(abs(s) for s in steps)


def joined(pages: list[list[Line]]) -> tuple[str, list[int]]:
    """The text of all pages, and the char at which each begins; a paragraph may run across."""
    words = vocabulary(pages)
    look = look_of(pages, words)
    parts: list[str] = []
    starts: list[int] = []
    size = 0
    previous: Line | None = None
    for page in pages:
        look = on_page(look, page) if page else look
        for n, line in enumerate(page):
            text = CONTROL.sub("", SOFT.sub("-", line.text))
            if previous is not None:
                glue = glue_of(previous, line, look, words)
                if glue == DROP_HYPHEN:
                    parts[-1], size, glue = parts[-1][:-1], size - 1, ""
                parts.append(glue)
                size += len(glue)
            starts += [size] if n == 0 else []
            parts.append(text)
            size += len(text)
            previous = line
        starts += [] if page else [size]
    return "".join(parts) + "\n", starts


def vocabulary(pages: list[list[Line]]) -> Counter[str]:
    return Counter(
        w for page in pages for line in page for w in re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", line.text.lower())
    )


def look_of(pages: list[list[Line]], words: Counter[str]) -> Look:
    lines = [line for page in pages for line in page]
    steps = [a.bottom - b.bottom for a, b in pairwise(lines) if a.page == b.page and a.bottom > b.bottom]
    floor = median(page[-1].bottom for page in pages if page)
    indented = sum(indented_lines(page) for page in pages if page)
    return Look(
        0.0,
        0.0,
        median(steps) if steps else 0.0,
        floor,
        indents=0.04 * len(lines) < indented < 0.6 * len(lines),
        hyphens_stay=hyphens_stay(lines, words),
    )


def indented_lines(page: list[Line]) -> int:
    left = on_page(Look(0, 0, 0, 0), page).left
    return sum(line.left > left + 4 for line in page)


def on_page(look: Look, page: list[Line]) -> Look:
    """The left edge that most lines of the page share and the right edge that the long ones reach."""
    lefts = Counter(round(line.left) for line in page)
    return replace(look, left=float(lefts.most_common(1)[0][0]), right=max(line.right for line in page))


def glue_of(a: Line, b: Line, look: Look, words: Counter[str]) -> str:
    """What belongs between two lines: nothing, DROP_HYPHEN, a space, or a paragraph's end."""
    if new_paragraph(a, b, look):
        return "\n\n"
    if a.text[-1:] in HYPHENS and len(a.text) > 1 and a.text[-2].isalpha() and b.text[:1].isalpha():
        return hyphen_glue(a.text, b.text, words, look)
    return " "


def new_paragraph(a: Line, b: Line, look: Look) -> bool:
    em = max(4.0, height(b) * 0.6)
    ended = a.text.rstrip().endswith(SENTENCE_END)
    short = a.right < look.right - 6 * em
    indented = b.left > look.left + em
    if abs(height(a) - height(b)) > 0.15 * height(b) and (ended or short):
        return True
    if a.page != b.page:
        return (ended and (short or indented)) or a.bottom > look.floor + 4 * look.step
    gap = a.bottom - b.bottom
    if gap < 0:  # the next column
        return ended and (short or indented)
    if look.step > 0 and gap > 1.45 * look.step:
        return True
    return (indented and (ended or a.left <= look.left + em / 2)) or (short and ended and not look.indents)


def height(line: Line) -> float:
    return line.top - line.bottom


def hyphen_glue(a: str, b: str, words: Counter[str], look: Look) -> str:
    """Joined if the joined word is known; kept if the text writes it so elsewhere; else as this document does."""
    first, second = halves(a, b)
    if not first or not second or b[0].isupper():
        return ""
    if words[first + second]:
        return DROP_HYPHEN
    if words[f"{first}-{second}"] or look.hyphens_stay:
        return ""
    return "" if words[first] > 1 and words[second] > 1 else DROP_HYPHEN


def halves(a: str, b: str) -> tuple[str, str]:
    first, second = END_WORD.search(a.rstrip(HYPHENS).lower()), START_WORD.match(b.lower())
    return first[0] if first else "", second[0] if second else ""


def hyphens_stay(lines: list[Line], words: Counter[str]) -> bool:
    """Whether words are cut at line ends only where they have a hyphen anyway: joined, they are never known."""
    pairs = [halves(a.text, b.text) for a, b in pairwise(lines) if a.text[-1:] in HYPHENS]
    soft = sum(bool(words[x + y]) for x, y in pairs if x and y)
    return soft * 4 < sum(bool(words[x] and words[y]) for x, y in pairs if x and y)
