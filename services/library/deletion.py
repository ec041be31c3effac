"""Deleting a source or a conversation with everything that holds its words.

The rows go in the caller's transaction. What lies elsewhere (engine sessions, event streams, the blob, the search
index) is named here and removed by the caller after the commit, or by the sweep when that fails.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.library import jobs, sessions, sources
from services.library.tables import ChatSession, IdempotentRequest, Job, SessionSource, Source, Turn


@dataclass(frozen=True)
class Gone:
    """What a deletion leaves to be removed outside of the database."""

    jobs: list[str]  # their event streams
    running: list[str]  # of these, the ones that somebody may be working on
    blob: str | None = None  # sha256 of bytes that nobody else needs


def delete_source(db: Session, tenant: str, source_id: str, kind: str | None = None) -> Gone:
    """With every conversation about it, whatever else these are about: their states have read it."""
    source = sources.get(db, tenant, source_id, kind)
    over = sa.select(SessionSource.session_id).where(SessionSource.source_id == source_id)
    session_ids = list(
        db.scalars(sa.select(ChatSession.id).where(ChatSession.tenant == tenant, ChatSession.id.in_(over)))
    )
    gone = _delete_jobs(db, tenant, [source_id, *_turns(db, session_ids)])
    _delete_sessions(db, tenant, session_ids)
    sources.discard(db, tenant, [sources.engine_session(source_id)])
    db.execute(sa.update(Source).where(Source.tenant == tenant, Source.previous == source_id).values(previous=None))
    db.delete(source)
    db.flush()
    shared = source.sha256 and db.scalar(sa.select(Source.id).where(Source.sha256 == source.sha256).limit(1))
    return Gone(gone.jobs, gone.running, None if shared else source.sha256)


def delete_session(db: Session, tenant: str, session_id: str) -> Gone:
    sessions.get(db, tenant, session_id)
    gone = _delete_jobs(db, tenant, _turns(db, [session_id]))
    _delete_sessions(db, tenant, [session_id])
    return gone


def _turns(db: Session, session_ids: Sequence[str]) -> list[str]:
    return list(db.scalars(sa.select(Turn.id).where(Turn.session_id.in_(session_ids))))


def _delete_jobs(db: Session, tenant: str, subjects: Sequence[str]) -> Gone:
    """A worker that holds one of them finds its claim gone and stops."""
    found = db.execute(sa.select(Job.id, Job.status).where(Job.tenant == tenant, Job.subject.in_(subjects))).all()
    ids = [row.id for row in found]
    db.execute(sa.delete(Job).where(Job.id.in_(ids)))
    _delete_replies(db, tenant, [f"/v1/jobs/{job_id}" for job_id in ids])
    return Gone(ids, [row.id for row in found if row.status in jobs.OPEN])


def _delete_sessions(db: Session, tenant: str, session_ids: Sequence[str]) -> None:
    """Turns, quotes and bookmarks go with them."""
    mine = ChatSession.tenant == tenant, ChatSession.id.in_(session_ids)
    sources.discard(db, tenant, db.scalars(sa.select(ChatSession.engine_session_id).where(*mine)))
    db.execute(sa.delete(ChatSession).where(*mine))
    _delete_replies(db, tenant, [f"/v1/sessions/{session_id}" for session_id in session_ids])


def _delete_replies(db: Session, tenant: str, locations: Sequence[str]) -> None:
    """Answers kept for an Idempotency-Key: they repeat titles and file names."""
    where = IdempotentRequest.tenant == tenant, IdempotentRequest.location.in_(locations)
    db.execute(sa.delete(IdempotentRequest).where(*where))
