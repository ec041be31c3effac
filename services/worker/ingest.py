"""A source from bytes to a reading: parse, store, plan, read segment by segment, then have it summarised.

Each step finds what the one before it left, so a job that starts again goes on where it stood.
"""

from dataclasses import asdict
from typing import Any

from services import errors, jobs, log
from services.agent.types import ReadingResult, SourceView
from services.ingest.types import Parsed
from services.library import jobs as job_rows
from services.library import search, sources
from services.library.tables import Source
from services.worker import views
from services.worker.parsing import parse
from services.worker.planning import planned
from services.worker.reading import read
from services.worker.run import Lost, Run

logger = log.get_logger(__name__)


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
        _store(run, source_id, parse(run, source))
    with run.tools.database.read() as db:
        view = views.load(db, run.tenant, source_id)
    _index(run, view)
    result = read(run, view, planned(run, source, view))
    _finish(run, source_id, result)
    return {"href": f"/v1/{source.kind.replace('repository', 'repositorie')}s/{source_id}"}


def _source(run: Run, source_id: str) -> Source:
    """One that was deleted meanwhile is nobody's any more."""
    with run.tools.database.read() as db:
        try:
            return sources.get(db, run.tenant, source_id)
        except errors.NotFound:
            raise Lost(source_id) from None


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
    counts = {"shared_tokens": reading.shared_tokens, "read_tokens": reading.read_tokens}
    logger.info(
        "source_read", source=reading.source_id, tokens=result.position, **counts, seconds=round(reading.seconds, 1)
    )


def send(run: Run, job: Any) -> None:
    """After the commit; the sweep sends it when Redis is away."""
    try:
        jobs.enqueue(run.settings, job.kind, job.subject, job.id, job.request_id)
    except Exception as error:
        return logger.warning("enqueue_failed", job=job.id, error=type(error).__name__)
    with run.tools.database.write() as db:
        job_rows.mark_sent(db, job.id)
