"""A source's bytes to text: in a child process with limits."""

import tempfile
from pathlib import Path
from typing import Any

from services import errors
from services.ingest.child import parse_in_child
from services.ingest.document import parse_document
from services.ingest.git import clone_repository
from services.ingest.repository import parse_repository
from services.ingest.types import LIMITS, IngestError, Known, Parsed
from services.library import blobs, sources
from services.library.tables import Source
from services.worker.run import Run

UNSUPPORTED = {"unsupported", "unsupported_file"}


def parse(run: Run, source: Source) -> Parsed:
    """What the parser says about the file is what the user reads."""
    try:
        return _clone(run, source) if source.url else _parse_blob(run, source)
    except IngestError as error:
        run.check()
        kind = errors.UnsupportedFile if error.code in UNSUPPORTED else errors.IngestFailed
        raise kind(error.message, code=error.code) from error


def _parse_blob(run: Run, source: Source) -> Parsed:
    run.enter("parsing")
    path, name = blobs.path(run.settings.blob_dir, source.sha256 or ""), source.filename or "unnamed"
    if source.kind == "repository":
        return _in_child(run, parse_repository, path, name, LIMITS, Known((), _before(run, source)))
    return _in_child(run, parse_document, path, name)


def _clone(run: Run, source: Source) -> Parsed:
    run.enter("cloning")
    with tempfile.TemporaryDirectory(prefix="shiori-clone-") as folder:
        checkout = clone_repository(source.url or "", source.ref or source.revision, Path(folder, "tree"))
        run.enter("parsing")
        known = Known(checkout.changes, _before(run, source))
        return _in_child(run, parse_repository, Path(checkout.path), source.title, LIMITS, known)


def _before(run: Run, source: Source) -> tuple[tuple[str, str], ...]:
    """The files of the version before, in the order in which they were read."""
    if source.previous is None:
        return ()
    with run.tools.database.read() as db:
        try:
            files = sources.get(db, run.tenant, source.previous, "repository").files
        except errors.NotFound:
            return ()
    return tuple((file["path"], file["sha256"]) for file in files)


def _in_child(run: Run, parse: Any, *arguments: Any) -> Parsed:
    seconds, memory = run.settings.parse_seconds, run.settings.parse_memory_mb
    parsed: Parsed = parse_in_child(parse, *arguments, seconds=seconds, memory_mb=memory, cancelled=run.is_stopped)
    return parsed
