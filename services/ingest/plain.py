"""Plain text and Markdown to a draft; the text stays as it is in the file."""

import re
from pathlib import PurePath

from services.ingest.chapters import HASHES, find_chapters, tidy
from services.ingest.draft import Draft, Heading
from services.ingest.types import Span

FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
SETEXT = re.compile(r" {0,3}(=+|-{2,})[ \t]*$")
GUTENBERG_TITLE = re.compile(r"^Title: (.+)$", re.M)
LINK = re.compile(r"!?\[([^\[\]]*)\](?:\([^()]*\)|\[[^\[\]]*\])")


def read_plain(text: str, filename: str) -> Draft:
    return Draft(title_of(text, filename), text, find_chapters(text))


def read_markdown(text: str, filename: str) -> Draft:
    headings, codes = scan_markdown(text)
    tops = [h for h in headings if h.level == 1]
    title = tops[0].title if tops and tops[0].title else stem(filename)
    return Draft(title, text, headings, codes=codes)


def title_of(text: str, filename: str) -> str:
    """Gutenberg's own field, else a first line that stands like a title, else the file's name."""
    if match := GUTENBERG_TITLE.search(text, 0, 4000):
        return match[1].strip()
    lines = text[:1000].lstrip().split("\n")
    first = lines[0].strip().lstrip("#").strip()
    alone = len(lines) > 1 and (not lines[1].strip() or lines[1].lower().startswith("by "))
    if alone and 1 < len(first) <= 100 and first[-1] not in ".,;:":
        return tidy(first)
    return stem(filename)


def stem(filename: str) -> str:
    return PurePath(filename.replace("\\", "/")).stem.replace("_", " ").strip() or "Untitled"


def scan_markdown(text: str) -> tuple[list[Heading], list[Span]]:
    """ATX and setext headings and fenced code; front matter between `---` lines is no heading."""
    headings: list[Heading] = []
    codes: list[Span] = []
    fence, opened, at, last = "", 0, front_matter_end(text), (0, "")
    while at < len(text):
        stop = text.find("\n", at)
        end = len(text) if stop < 0 else stop + 1
        line = text[at : end if stop < 0 else stop][:1000]
        mark = FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip(" \t`~"):
                codes.append((opened, end))
                fence = ""
        elif mark:
            fence, opened = mark[1], at
        elif line and (heading := heading_of(line, at, end, last)):
            headings.append(heading)
        last = (at, "" if fence or mark else line)
        at = end
    return headings, [*codes, (opened, len(text))] if fence else codes


def heading_of(line: str, at: int, end: int, last: tuple[int, str]) -> Heading | None:
    if match := HASHES.match(line.lstrip(" ") if line.startswith((" ", "  ", "   ")) else line):
        return Heading(words_of(match[2]), len(match[1]), at, end)
    under = SETEXT.match(line)
    above = last[1].strip()
    if under and above and len(above) < 200 and not above.startswith(("#", "|", "-", ">", "`")):
        return Heading(words_of(above), 1 if under[1][0] == "=" else 2, last[0], end)
    return None


def words_of(title: str) -> str:
    return tidy(LINK.sub(r"\1", title).replace("`", ""))[:300]


def front_matter_end(text: str) -> int:
    if not text.startswith("---\n"):
        return 0
    stop = text.find("\n---\n", 3, 1 << 16)
    return stop + 5 if stop >= 0 else 0
