"""`parse_document`: a file to Parsed, by what it holds rather than by its name."""

from pathlib import Path

from services.ingest.decode import check_size, to_text
from services.ingest.draft import Draft
from services.ingest.epub import is_epub, read_epub
from services.ingest.finish import finish
from services.ingest.html import read_html
from services.ingest.members import Budget, open_zip
from services.ingest.pdf import read_pdf
from services.ingest.plain import read_markdown, read_plain
from services.ingest.sniff import kind_of
from services.ingest.types import LIMITS, IngestError, Limits, Parsed

LARGEST_FILE = 4  # times the cap on text: markup and pictures around it


def parse_document(path: Path, filename: str, limits: Limits = LIMITS) -> Parsed:
    path = Path(path)
    check_size(path.stat().st_size // LARGEST_FILE, filename, limits)
    draft = read(path.read_bytes(), filename, limits)
    check_size(len(draft.text), filename, limits)
    return finish(draft)


def read(data: bytes, filename: str, limits: Limits) -> Draft:
    kind = kind_of(data, filename)
    if kind == "pdf":
        return read_pdf(data, filename, limits)
    if kind == "zip":
        return read_zip(data, filename, limits)
    if kind == "html":
        check_size(len(data), filename, limits)
        return read_html(data, filename)
    text = to_text(data, filename, limits)
    return read_markdown(text, filename) if kind == "markdown" else read_plain(text, filename)


def read_zip(data: bytes, filename: str, limits: Limits) -> Draft:
    archive = open_zip(data, filename, Budget(filename, limits))
    if is_epub(archive):
        return read_epub(data, filename, limits)
    if "[Content_Types].xml" in archive.namelist():
        raise IngestError("unsupported", f"{filename} is a Microsoft Office file. Save it as PDF and upload that.")
    raise IngestError("unsupported", f"{filename} is a zip archive, not a document. Upload it as a repository.")
