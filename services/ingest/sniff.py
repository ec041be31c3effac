"""What a file is, by its first bytes; its name only decides between kinds of text."""

import re
from pathlib import PurePath

from services.ingest.types import IngestError

REFUSED = (  # beginnings of files that hold no text for us, and what to do instead
    (b"\x1f\x8b", "a gzip archive", "Upload it as a repository, or unpack it and upload the document inside."),
    (b"\xd0\xcf\x11\xe0", "an old Microsoft Office file", "Save it as PDF and upload that."),
    (b"{\\rtf", "an RTF file", "Save it as PDF or plain text and upload that."),
    (b"%!PS", "a PostScript file", "Convert it to PDF and upload that."),
    (b"Rar!", "a RAR archive", "Unpack it and upload what is inside."),
    (b"7z\xbc\xaf", "a 7-Zip archive", "Unpack it and upload what is inside."),
    (b"BZh", "a bzip2 archive", "Unpack it and upload what is inside."),
    (b"\xfd7zXZ", "an xz archive", "Unpack it and upload what is inside."),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "Unpack it and upload what is inside."),
    (b"\x89PNG", "an image", "Upload text; a scan needs OCR first."),
    (b"\xff\xd8\xff", "an image", "Upload text; a scan needs OCR first."),
    (b"GIF8", "an image", "Upload text; a scan needs OCR first."),
    (b"\x7fELF", "a program", "Upload TXT, Markdown, HTML, EPUB or PDF."),
    (b"MZ\x90", "a program", "Upload TXT, Markdown, HTML, EPUB or PDF."),
    (b"SQLite format 3\0", "a database", "Export its text and upload that."),
)
HTML = re.compile(rb"\s*(?:<\?xml[^>]*>\s*|<!--.{0,2000}?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.I | re.S)
MARKUP = re.compile(rb"<(?:p|div|h[1-6]|br|span|table|article|section|a)\b[^>]*>", re.I)
MARKDOWN = {".md", ".markdown", ".mdown", ".mkd", ".mdx"}
PAGES = {".html", ".htm", ".xhtml", ".xht"}


def kind_of(data: bytes, filename: str) -> str:
    """pdf, zip, html, markdown or text; refuses by name what can be none of them."""
    if not data:
        raise IngestError("empty", f"{filename} has no bytes. Upload it again.")
    if b"%PDF-" in data[:1024]:
        return "pdf"
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    refuse_known(data, filename)
    return text_kind(data, PurePath(filename).suffix.lower(), filename)


def refuse_known(data: bytes, filename: str) -> None:
    for magic, what, remedy in REFUSED:
        if data.startswith(magic):
            raise IngestError("unsupported", f"{filename} is {what}, not a document. {remedy}")
    if data[257:262] == b"ustar":
        raise IngestError("unsupported", f"{filename} is a tar archive, not a document. Upload it as a repository.")


def text_kind(data: bytes, suffix: str, filename: str) -> str:
    plain = data[:8192].removeprefix(b"\xef\xbb\xbf").replace(b"\0", b"")  # UTF-16 markup is recognised too
    plain = plain.removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff")
    if HTML.match(plain) or (suffix in PAGES and MARKUP.search(plain)):
        return "html"
    if suffix in (".pdf", ".epub", ".docx", ".doc"):
        message = f"{filename} is not what its name says: no {suffix[1:].upper()} inside. Check that the file is whole."
        raise IngestError("wrong_type", message)
    return "markdown" if suffix in MARKDOWN else "text"
