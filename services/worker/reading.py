"""A source's text into the engine, from the last saved segment on."""

from collections.abc import Mapping
from typing import Any

from services import agent, errors, log
from services.agent.model import text
from services.agent.types import ReadingResult, SourceView
from services.library import jobs as job_rows
from services.library import sources
from services.worker.engine import patiently
from services.worker.run import Run

logger = log.get_logger(__name__)

ROOM = 0.95  # of what the engine can hold: questions and answers need some


def read(run: Run, view: SourceView, tokens: int) -> ReadingResult | None:
    """None: more than the engine can hold. `tokens` of the text, 0 when nobody has counted them."""
    run.enter("reading")
    session_id = sources.engine_session(view.id)
    try:
        return waiting(run, lambda: _read(run, view, session_id, tokens))
    except errors.ContextLimit as error:
        logger.info("too_large_to_read", source=view.id, detail=error.detail)
        with run.write() as db:
            sources.discard(db, run.tenant, [session_id])
        return None


def _read(run: Run, view: SourceView, session_id: str, tokens: int) -> ReadingResult:
    room, tokens = int(run.model.describe().context_tokens * ROOM), tokens or run.model.count_tokens([text(view.text)])
    if tokens > room:
        raise errors.ContextLimit(f"{tokens:,} tokens; the engine holds {room:,}.", tokens=tokens, room=room)
    with run.tools.database.write() as db:
        start = sources.reading(db, run.tenant, view.id).segments_done
    try:
        return agent.read_source(run.model, view, session_id, _recorder(run, view.id), start, tokens)
    except (errors.StateIncompatible, errors.DataLoss):
        run.model.delete_session(session_id)  # another model's, or damaged: from the beginning
        return agent.read_source(run.model, view, session_id, _recorder(run, view.id), 0, tokens)


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
        for name in ("shared_tokens", "read_tokens"):
            setattr(reading, name, (getattr(reading, name) or 0) + data[name])
        job_rows.got_on(db, run.job.id, run.job.attempt)


def waiting(run: Run, call: Any) -> Any:
    """Calls the engine; one that restarts is waited for."""
    return patiently(call, run.settings.engine_patience_seconds, lambda: run.enter("waiting for the engine"), run.check)
