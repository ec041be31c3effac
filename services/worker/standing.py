"""Where a conversation's engine session must stand before a question, and how it gets there.

The library says which turns lead to the question; the engine follows. Each answered turn has a bookmark in the engine
(`engine_mark`), the beginning has ROOT. So a rewind or a fork in the library needs no engine: the session is moved, or
made from its parent's, when the next question comes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services import agent, errors, log
from services.agent.types import Emit, SourceView
from services.library import sessions
from services.library.db import Database
from services.library.tables import ChatSession, Turn
from services.worker.engine import GuardedModel

logger = log.get_logger(__name__)

ROOT = "root"


@dataclass(frozen=True)
class Place:
    """A head: the engine session, the bookmark it must stand at, and the sessions it was forked from, nearest first."""

    engine_session: str
    mark: str
    ancestors: tuple[str, ...]


def place_of(database: Database, tenant: str, session: ChatSession, turn: Turn) -> Place:
    with database.read() as db:
        before = None if turn.head_before == session.id else sessions.get_turn(db, tenant, turn.head_before)
        mark = (before.engine_mark if before else None) or ROOT
        ancestors, parent = [], session.parent
        while parent:
            try:
                origin = sessions.get(db, tenant, parent)
            except errors.NotFound:
                break
            ancestors.append(origin.engine_session_id)
            parent = origin.parent
    return Place(session.engine_session_id, mark, tuple(ancestors))


def stand(model: GuardedModel, views: Sequence[SourceView], place: Place, emit: Emit) -> None:
    """Afterwards the engine session exists and its head is at the place."""
    marks, head = _marks(model, place.engine_session)
    if place.mark not in marks:
        if head is not None:
            model.delete_session(place.engine_session)
        _make(model, views, place, emit)
        model.bookmark_session(place.engine_session, place.mark)
    elif marks[place.mark] != head:
        model.rewind_session(place.engine_session, place.mark)


def _make(model: GuardedModel, views: Sequence[SourceView], place: Place, emit: Emit) -> None:
    for ancestor in place.ancestors if place.mark != ROOT else ():
        if place.mark in _marks(model, ancestor)[0]:
            model.fork_session(ancestor, place.engine_session, place.mark)
            return
    if place.mark != ROOT:  # what was said is still in the library, and the source is read; only the model forgot it
        logger.warning("engine_history_lost", session=place.engine_session, mark=place.mark)
    agent.open_session(model, views, place.engine_session, emit)


def _marks(model: GuardedModel, engine_session: str) -> tuple[dict[str, str], str | None]:
    """Bookmark -> digest, and the digest of the head; None when there is no such session."""
    try:
        found = model.describe_session(engine_session)
    except errors.NotFound:
        return {}, None
    return {mark.name: mark.head.digest for mark in found.bookmarks}, found.head.digest
