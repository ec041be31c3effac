"""PDF to a draft: lines with their place on the page, joined to paragraphs; page numbers kept, running heads dropped."""

import re
from collections import Counter
from dataclasses import dataclass
from statistics import median

import pypdfium2 as pdfium

from services.ingest.chapters import find_chapters, tidy
from services.ingest.draft import Draft, Heading
from services.ingest.plain import stem
from services.ingest.types import LIMITS, IngestError, Limits

DROP_HYPHEN = "-"
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


def read_pdf(data: bytes, filename: str, limits: Limits = LIMITS) -> Draft:
    document = open_pdf(data, filename)
    try:
        pages = read_pages(document, filename, limits)
        title = (document.get_metadata_dict().get("Title") or "").strip()
        toc = bookmarks(document)
    finally:
        document.close()
    if not any(line.text.strip() for page in pages for line in page):
        raise IngestError(
            "no_text", f"{filename} has {len(pages)} pages but no text, like a scan. Run OCR on it first."
        )
    return draft_of(pages, CONTROL.sub("", title) or stem(filename), toc)


def open_pdf(data: bytes, filename: str) -> pdfium.PdfDocument:
    try:
        document = pdfium.PdfDocument(data)
        if len(document) == 0:
            raise IngestError("empty", f"{filename} is a PDF without pages. Export it again.")
        return document
    except pdfium.PdfiumError as error:
        if "password" in str(error).lower() or b"/Encrypt" in data:
            message = f"{filename} is an encrypted PDF. Remove the password and upload it again."
            raise IngestError("encrypted", message) from None
        message = f"{filename} is damaged or cut short: no PDF can be opened. Upload it again from the original."
        raise IngestError("damaged", message) from None


def read_pages(document: pdfium.PdfDocument, filename: str, limits: Limits) -> list[list[Line]]:
    pages, size = [], 0
    for number in range(len(document)):
        try:
            lines = page_lines(document, number)
        except pdfium.PdfiumError:
            lines = []
        size += sum(len(line.text) for line in lines)
        if size > limits.text_bytes:
            message = (
                f"{filename} holds more than {limits.text_bytes >> 20} MiB of text. Split it and upload the parts."
            )
            raise IngestError("too_large", message)
        pages.append(lines)
    return drop_running_heads(pages)


def page_lines(document: pdfium.PdfDocument, number: int) -> list[Line]:
    page = document[number]
    textpage = page.get_textpage()
    try:
        text = page_text(textpage)
        out, at = [], 0
        for raw in re.split(r"(\r\n|\r|\n)", text):
            if raw.strip():
                out.append(place(textpage, raw, at, number))
            at += len(raw)
        return out
    finally:
        textpage.close()
        page.close()


def page_text(textpage: pdfium.PdfTextPage) -> str:
    """The page's characters, one for each of pdfium's, so that a position in the text finds its box."""
    count = textpage.count_chars()
    text = textpage.get_text_range() if count else ""
    if len(text) == count:
        return text
    codes = (pdfium.raw.FPDFText_GetUnicode(textpage, n) for n in range(count))
    return "".join(chr(c) if 0 < c < 0x110000 and not 0xD800 <= c < 0xE000 else " " for c in codes)


def place(textpage: pdfium.PdfTextPage, raw: str, at: int, number: int) -> Line:
    first = at + len(raw) - len(raw.lstrip())
    last = at + len(raw.rstrip(" \x02\ufffe")) - 1
    left, bottom, _, top = textpage.get_charbox(first, loose=True)
    right = textpage.get_charbox(max(first, last), loose=True)[2]
    return Line(raw.strip(" \t"), number, left, right, top, bottom)


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
    steps = [a.bottom - b.bottom for a, b in zip(page, page[1:], strict=False)]
    return len(steps) < 3 or abs(steps[at]) > 1.3 * median(abs(s) for s in steps)


def draft_of(pages: list[list[Line]], title: str, toc: list[tuple[str, int, int]]) -> Draft:
    text, starts = joined(pages)
    draft = Draft(title, text, page_starts=starts)
    marks = bookmark_marks(text, starts, toc)
    draft.headings = [m for m in marks if m.end > m.start] if marks else find_chapters(text)
    draft.marks = marks or draft.headings
    return draft


def joined(pages: list[list[Line]]) -> tuple[str, list[int]]:
    """The text of all pages, and the char at which each begins; a paragraph may run across."""
    words, step = vocabulary(pages), usual_step(pages)
    parts: list[str] = []
    starts: list[int] = []
    size, previous = 0, None
    for page in pages:
        margins = margins_of(page)
        for n, line in enumerate(page):
            text = CONTROL.sub("", SOFT.sub("-", line.text))
            if previous is not None:
                glue = glue_of(previous, line, step, margins, words)
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


def usual_step(pages: list[list[Line]]) -> float:
    steps = [a.bottom - b.bottom for page in pages for a, b in zip(page, page[1:], strict=False) if a.bottom > b.bottom]
    return median(steps) if steps else 0.0


def margins_of(page: list[Line]) -> tuple[float, float]:
    """The left edge most lines share and the right edge the long ones reach."""
    if not page:
        return 0.0, 0.0
    lefts = Counter(round(line.left) for line in page)
    return float(lefts.most_common(1)[0][0]), max(line.right for line in page)


def glue_of(a: Line, b: Line, step: float, margins: tuple[float, float], words: Counter[str]) -> str:
    """What belongs between two lines: nothing, DROP_HYPHEN, a space, or a paragraph's end."""
    if new_paragraph(a, b, step, margins):
        return "\n\n"
    if a.text[-1:] in HYPHENS and len(a.text) > 1 and a.text[-2].isalpha() and b.text[:1].isalpha():
        return hyphen_glue(a.text, b.text, words)
    return " "


def new_paragraph(a: Line, b: Line, step: float, margins: tuple[float, float]) -> bool:
    left, right = margins
    em = max(4.0, (b.top - b.bottom) * 0.6)
    ended = a.text.rstrip().endswith(SENTENCE_END)
    short = a.right < right - 6 * em
    indented = b.left > left + em
    if a.page != b.page:
        return ended and (short or indented)
    gap = a.bottom - b.bottom
    if gap < 0 or (step and gap > 1.45 * step):
        return gap >= 0 or ended
    return (indented and a.left <= left + em / 2) or (short and ended) or abs(height(a) - height(b)) > 0.25 * height(b)


def height(line: Line) -> float:
    return line.top - line.bottom


def hyphen_glue(a: str, b: str, words: Counter[str]) -> str:
    """Joined if the joined word is known or a half is no word; kept if the text writes it with a hyphen or as two."""
    first = re.findall(r"[^\W\d_]+$", a.rstrip(HYPHENS).lower())
    second = re.findall(r"^[^\W\d_]+", b.lower())
    if not first or not second:
        return ""
    if words[first[0] + second[0]]:
        return DROP_HYPHEN
    if words[f"{first[0]}-{second[0]}"] or b[0].isupper():
        return ""
    return "" if words[first[0]] > 1 and words[second[0]] > 1 else DROP_HYPHEN


def bookmarks(document: pdfium.PdfDocument) -> list[tuple[str, int, int]]:
    """(title, level from 1, page from 0) of the document's own outline."""
    out = []
    for item in document.get_toc(max_depth=8):
        destination = item.get_dest()
        page = destination.get_index() if destination else None
        if page is not None and page >= 0 and item.get_title().strip():
            out.append((tidy(CONTROL.sub("", item.get_title()))[:300], item.level + 1, page))
    return out


def bookmark_marks(text: str, starts: list[int], toc: list[tuple[str, int, int]]) -> list[Heading]:
    """Each bookmark at its words on its page, else where the page begins."""
    marks: dict[int, Heading] = {}
    for title, level, page in toc:
        if page >= len(starts):
            continue
        stop = starts[page + 1] if page + 1 < len(starts) else len(text)
        pattern = r"(?:^|(?<=\n))[ ]*" + r"\s+".join(map(re.escape, title.split())) + r"[ ]*(?=\n)"
        match = re.compile(pattern, re.I).search(text, starts[page], stop)
        start, end = (match.start(), match.end() + 1) if match else (starts[page], starts[page])
        marks.setdefault(start, Heading(title, level, start, end))
    return [marks[start] for start in sorted(marks)]
