"""PDF to a draft: every page's lines with their places, the document's own outline; layout.py joins them."""

import re

import pypdfium2 as pdfium

from services.ingest.chapters import find_chapters, tidy
from services.ingest.draft import Draft, Heading
from services.ingest.layout import CONTROL, Line, drop_running_heads, joined
from services.ingest.plain import stem
from services.ingest.types import LIMITS, IngestError, Limits

LINE = re.compile("[^\r\n\x02\ufffe]+[\x02\ufffe]?")  # pdfium writes a hyphen at a line's end as \\x02


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
        out = [place(textpage, m[0], m.start(), number) for m in LINE.finditer(text) if m[0].strip()]
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


def draft_of(pages: list[list[Line]], title: str, toc: list[tuple[str, int, int]]) -> Draft:
    text, starts = joined(pages)
    draft = Draft(title, text, page_starts=starts)
    marks = bookmark_marks(text, starts, toc)
    draft.headings = [m for m in marks if m.end > m.start] if marks else find_chapters(text)
    draft.marks = marks or draft.headings
    return draft


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
