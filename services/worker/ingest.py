"""A source from bytes to a reading: parse, store, read segment by segment, then have it summarised.

Each step finds what the one before it left, so a job that starts again goes on where it stood.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services import agent, errors, jobs, log
from services.agent.types import ReadingResult, SourceView
from services.ingest.child import parse_in_child
from services.ingest.document import parse_document
from services.ingest.git import clone_repository
from services.ingest.repository import parse_repository
from services.ingest.types import IngestError, Parsed
from services.library import blobs, search, sources
from services.library import jobs as job_rows
from services.library.tables import Source
from services.worker import views
from services.worker.engine import patiently
from services.worker.run import Lost, Run

logger = log.get_logger(__name__)

ROOM = 0.95  # of what the engine can hold: questions and answers need some
UNSUPPORTED = {"unsupported", "unsupported_file"}


def ingest(run: Run, source_id: str) -> dict[str, Any]:
    try:
        return _ingest(run, source_id)
    except Exception:
        _clean_up_if_deleted(run, source_id)
        raise


def _clean_up_if_deleted(run: Run, source_id: str) -> None:
    """The engine may have opened the reading again after its owner was deleted."""
    with run.tools.database.write() as db:
        try:
            sources.get(db, run.tenant, source_id)
        except errors.NotFound:
            sources.discard(db, run.tenant, [sources.engine_session(source_id)])
            search.forget(run.settings.index_dir, source_id)
            raise Lost(source_id) from None


def _ingest(run: Run, source_id: str) -> dict[str, Any]:
    source = _source(run, source_id)
    if source.characters is None:
        _store(run, source_id, _parse(run, source))
    with run.tools.database.read() as db:
        view = views.load(db, run.tenant, source_id)
    _index(run, view)
    result = read(run, view)
    _finish(run, source_id, result)
    return {"href": f"/v1/{source.kind.replace('repository', 'repositorie')}s/{source_id}"}


def _source(run: Run, source_id: str) -> Source:
    """One that was deleted meanwhile is nobody's any more."""
    with run.tools.database.read() as db:
        try:
            return sources.get(db, run.tenant, source_id)
        except errors.NotFound:
            raise Lost(source_id) from None


def _parse(run: Run, source: Source) -> Parsed:
    """In a child process with limits; what it says about the file is what the user reads."""
    try:
        return _clone(run, source) if source.url else _parse_blob(run, source)
    except IngestError as error:
        run.check()
        kind = errors.UnsupportedFile if error.code in UNSUPPORTED else errors.IngestFailed
        raise kind(error.message, code=error.code) from error


def _parse_blob(run: Run, source: Source) -> Parsed:
    run.enter("parsing")
    path = blobs.path(run.settings.blob_dir, source.sha256 or "")
    parse = parse_repository if source.kind == "repository" else parse_document
    return _in_child(run, parse, path, source.filename or "unnamed")


def _clone(run: Run, source: Source) -> Parsed:
    run.enter("cloning")
    with tempfile.TemporaryDirectory(prefix="shiori-clone-") as folder:
        checkout = clone_repository(source.url or "", source.revision, Path(folder, "tree"))
        run.enter("parsing")
        return _in_child(run, parse_repository, Path(checkout.path), source.title)


def _in_child(run: Run, parse: Any, path: Path, name: str) -> Parsed:
    seconds, memory = run.settings.parse_seconds, run.settings.parse_memory_mb
    parsed: Parsed = parse_in_child(parse, path, name, seconds=seconds, memory_mb=memory, cancelled=run.is_stopped)
    return parsed


def _store(run: Run, source_id: str, parsed: Parsed) -> None:
    """Blocks, symbols and outline in one transaction."""
    run.enter("storing")
    with run.write() as db:
        outline, files = [asdict(entry) for entry in parsed.outline], [asdict(entry) for entry in parsed.files]
        sources.store_parsed(db, run.tenant, source_id, parsed, outline, files, list(parsed.warnings))
    for warning in parsed.warnings:
        run.emit("warning", {"detail": warning})


def _index(run: Run, view: SourceView) -> None:
    with run.tools.database.read() as db:
        search.ensure(run.settings.index_dir, view.id, lambda: sources.blocks(db, run.tenant, view.id))


def read(run: Run, view: SourceView) -> ReadingResult | None:
    """Into the engine, from the last saved segment on. None: more than the engine can hold."""
    run.enter("reading")
    session_id = sources.engine_session(view.id)
    try:
        return _waiting(run, lambda: _read(run, view, session_id))
    except errors.ContextLimit as error:
        logger.info("too_large_to_read", source=view.id, detail=error.detail)
        with run.write() as db:
            sources.discard(db, run.tenant, [session_id])
        return None


def _read(run: Run, view: SourceView, session_id: str) -> ReadingResult:
    room, tokens = int(run.model.describe().context_tokens * ROOM), run.model.count_tokens([_text(view.text)])
    if tokens > room:
        raise errors.ContextLimit(f"{tokens:,} tokens; the engine holds {room:,}.", tokens=tokens, room=room)
    with run.tools.database.write() as db:
        start = sources.reading(db, run.tenant, view.id).segments_done
    try:
        return agent.read_source(run.model, view, session_id, _recorder(run, view.id), start)
    except (errors.StateIncompatible, errors.DataLoss):
        run.model.delete_session(session_id)  # another model's, or damaged: from the beginning
        return agent.read_source(run.model, view, session_id, _recorder(run, view.id), 0)


def _text(words: str) -> Any:
    from services.inference.client import text

    return text(words)


def _recorder(run: Run, source_id: str) -> Any:
    """An `emit` that writes each saved segment to the library, so that it is known how far the reading is."""
    saved = -1

    def emit(event: str, data: Mapping[str, Any]) -> None:
        nonlocal saved
        run.check()
        if event != "reading.progress":
            return run.emit(event, data)
        new, saved = data["segments_done"] != saved, data["segments_done"]
        if new:
            _save(run, source_id, data)
        run.report("reading", {"unit": "tokens", **data}, force=new)

    return emit


def _save(run: Run, source_id: str, data: Mapping[str, Any]) -> None:
    with run.write() as db:
        reading = sources.reading(db, run.tenant, source_id)
        reading.segments_done, reading.position = data["segments_done"], data["durable"]
        job_rows.got_on(db, run.job.id, run.job.attempt)


def _waiting(run: Run, call: Any) -> Any:
    return patiently(call, run.settings.engine_patience_seconds, lambda: run.enter("waiting for the engine"), run.check)


def _finish(run: Run, source_id: str, result: ReadingResult | None) -> None:
    """Records the reading and has the source summarised."""
    with run.write() as db:
        source = sources.get(db, run.tenant, source_id)
        if result is None:
            source.warnings = [
                *source.warnings,
                "Too long to be read whole: answers come from passages found by search.",
            ]
        else:
            _record(sources.reading(db, run.tenant, source_id), result)
            source.reading_id = sources.reading(db, run.tenant, source_id).id
            source.tokens = result.position
        source.status = "ready"
        job = job_rows.latest(db, run.tenant, source_id, jobs.Kinds.summarise)
        fresh = job is None
        if fresh:
            job = job_rows.create(db, run.tenant, jobs.Kinds.summarise, source_id, run.job.request_id)
    if fresh and job:
        send(run, job)


def _record(reading: Any, result: ReadingResult) -> None:
    reading.digest, reading.position = result.digest, result.position
    reading.segments_done, reading.bytes = result.segments_done, result.saved_bytes
    reading.seconds, reading.fingerprint = reading.seconds + result.seconds, result.fingerprint


def send(run: Run, job: Any) -> None:
    """After the commit; the sweep sends it when Redis is away."""
    try:
        jobs.enqueue(run.settings, job.kind, job.subject, job.id, job.request_id)
    except Exception as error:
        return logger.warning("enqueue_failed", job=job.id, error=type(error).__name__)
    with run.tools.database.write() as db:
        job_rows.mark_sent(db, job.id)
