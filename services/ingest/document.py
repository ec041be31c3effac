"""`parse_document`: a file to Parsed, by what it holds rather than by its name."""

from pathlib import Path, PurePath

from services.ingest.decode import to_text
from services.ingest.draft import Draft
from services.ingest.finish import finish
from services.ingest.plain import read_markdown, read_plain
from services.ingest.types import LIMITS, IngestError, Limits, Parsed

MARKDOWN = {".md", ".markdown", ".mdown", ".mkd"}


def parse_document(path: Path, filename: str, limits: Limits = LIMITS) -> Parsed:
    return finish(read(Path(path).read_bytes(), filename, limits))


def read(data: bytes, filename: str, limits: Limits) -> Draft:
    if not data:
        raise IngestError("empty", f"{filename} has no bytes. Upload it again.")
    text = to_text(data, filename, limits)
    if PurePath(filename).suffix.lower() in MARKDOWN:
        return read_markdown(text, filename)
    return read_plain(text, filename)
