"""How a job's end shows on its subject: in one place, for the worker, the gateway's cancel and the sweep."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.library import sessions
from services.library.tables import Job, Source


def show(db: Session, job: Job, status: str, error: Mapping[str, Any] | None = None) -> None:
    """`status` as of jobs: queued, running, succeeded, failed or cancelled."""
    if job.kind == "ingest":
        _on_source(db, job, status, error)
    elif job.kind == "answer" and status != "succeeded":
        sessions.set_turn_status(db, job.subject, status, error)


def reopen(db: Session, job: Job) -> None:
    """The subject of a job that is retried."""
    if job.kind == "answer":
        sessions.reopen_turn(db, job.tenant, job.subject)
    show(db, job, "queued")


SOURCE_STATUS = {"running": "reading", "succeeded": "ready"}


def _on_source(db: Session, job: Job, status: str, error: Mapping[str, Any] | None) -> None:
    where = Source.tenant == job.tenant, Source.id == job.subject
    values = {"status": SOURCE_STATUS.get(status, status), "error": dict(error) if error else None}
    db.execute(sa.update(Source).where(*where).values(values))
