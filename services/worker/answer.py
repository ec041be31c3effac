"""A question's job: put the session where it must stand, have the agent answer, store what it said."""

import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from services import agent, errors, log
from services.agent.types import Answer, Hit, SourceView
from services.library import sessions, sources
from services.library.tables import ChatSession, Turn
from services.worker import views
from services.worker.engine import patiently
from services.worker.run import Lost, Run
from services.worker.standing import ROOT, Place, place_of, stand

logger = log.get_logger(__name__)

FORGOTTEN = (errors.NotFound, errors.StateIncompatible, errors.DataLoss)


def answer(run: Run, turn_id: str) -> dict[str, Any]:
    turn, session, shown = _load(run, turn_id)
    try:
        return _answered(run, turn, session, shown)
    except Exception:
        _clean_up_if_deleted(run, session)
        raise


def _clean_up_if_deleted(run: Run, session: ChatSession) -> None:
    """The engine may have opened the session again after its owner was deleted."""
    with run.tools.database.write() as db:
        try:
            sessions.get(db, run.tenant, session.id)
        except errors.NotFound:
            sources.discard(db, run.tenant, [session.engine_session_id])
            raise Lost(session.id) from None


def _answered(run: Run, turn: Turn, session: ChatSession, shown: list[SourceView]) -> dict[str, Any]:
    run.emit(
        "message.created", {"id": turn.id, "session_id": session.id, "job_id": run.job.id, "attempt": run.job.attempt}
    )
    run.enter("answering")
    place, mark = place_of(run.tools.database, run.tenant, session, turn), f"{turn.id}-{secrets.token_hex(3)}"
    found = patiently(
        lambda: _answer(run, shown, place, turn.question, mark, session.until),
        run.settings.engine_patience_seconds,
        lambda: run.enter("waiting for the engine"),
        run.check,
    )
    _store(run, turn, found, mark if found.digest else place.mark)
    run.tell("usage", found.usage)
    run.tell("message.completed", _completed(turn, found))
    return {"href": f"/v1/sessions/{session.id}/messages", "message_id": turn.id}


def _load(run: Run, turn_id: str) -> tuple[Turn, ChatSession, list[SourceView]]:
    try:
        with run.tools.database.read() as db:
            turn = sessions.get_turn(db, run.tenant, turn_id)
            session = sessions.get(db, run.tenant, turn.session_id)
            return turn, session, [views.load(db, run.tenant, link.source_id) for link in session.sources]
    except errors.NotFound:
        raise Lost(turn_id) from None


def _answer(run: Run, shown: list[SourceView], place: Place, question: str, mark: str, until: int | None) -> Answer:
    """When the vault has lost a reading, it is made again first: that costs time, never an answer."""
    known = shown if until is None else [view.upto(until) for view in shown]
    try:
        return _from(run, known, place, question, mark)
    except FORGOTTEN as error:
        logger.warning("reading_lost", code=error.code, detail=error.detail)
        _read_again(run, shown, place)
        return _from(run, known, place, question, mark)


def _from(run: Run, shown: list[SourceView], place: Place, question: str, mark: str) -> Answer:
    if all(view.engine_session for view in shown):
        stand(run.model, shown, place, run.emit)
    return agent.answer(run.model, shown, place.engine_session, question, run.emit, mark)


def _read_again(run: Run, shown: list[SourceView], place: Place) -> None:
    run.enter("reading again")
    with suppress(errors.NotFound):
        run.model.delete_session(place.engine_session)
    for view in shown:
        if view.engine_session:
            _whole(run, view, view.engine_session)


def _whole(run: Run, view: SourceView, engine_session: str) -> None:
    """Reads what is missing; a state of another model or a damaged one goes first."""
    try:
        agent.read_source(run.model, view, engine_session, run.emit)
    except (errors.StateIncompatible, errors.DataLoss):
        run.model.delete_session(engine_session)
        agent.read_source(run.model, view, engine_session, run.emit)


def _store(run: Run, turn: Turn, found: Answer, mark: str) -> None:
    with run.write() as db:
        sessions.complete(
            db,
            run.tenant,
            turn.id,
            [_quote(asdict(quote)) for quote in found.quotes],
            answer=found.text,
            origin=found.origin,
            answered=found.answered,
            confirmed=found.confirmed,
            usage=dict(found.usage),
            timing=dict(found.timing),
            evidence=[_evidence(hit) for hit in found.evidence],
            engine_mark=None if mark == ROOT else mark,
        )


def _quote(quote: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in quote.items()}


def _evidence(hit: Hit) -> dict[str, Any]:
    block = hit.block
    where = {"char": list(block.char), "line": list(block.line), "page": block.page, "path": block.path}
    return {"source_id": hit.source_id, **where, "chapter": block.chapter, "score": hit.score}


def _completed(turn: Turn, found: Answer) -> dict[str, Any]:
    return {
        "id": turn.id,
        "session_id": turn.session_id,
        "answer": found.text,
        "quotes": [_quote(asdict(quote)) for quote in found.quotes],
        "origin": found.origin,
        "answered": found.answered,
        "confirmed": found.confirmed,
        "usage": found.usage,
        "timing": found.timing,
        "head": turn.id,
    }
