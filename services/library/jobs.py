"""Jobs: claimed by one worker at a time, kept alive by heartbeats, ended once.

`attempt` is the fencing token: every write of a worker names the attempt it holds, so one that was given up for lost
and comes back changes nothing any more (its functions return False).
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.errors import Conflict, NotFound
from services.library.ids import new_id
from services.library.pages import Page, newest_first
from services.library.tables import Job, now

OPEN = ("queued", "running")


def create(db: Session, tenant: str, kind: str, subject: str, request_id: str | None = None) -> Job:
    job = Job(id=new_id("job"), tenant=tenant, kind=kind, subject=subject, status="queued", attempt=0)
    job.request_id, job.phase, job.losses = request_id, "waiting", 0
    db.add(job)
    db.flush()
    return job


def get(db: Session, tenant: str, job_id: str) -> Job:
    job = db.scalar(sa.select(Job).where(Job.tenant == tenant, Job.id == job_id))
    if job is None:
        raise NotFound(f"There is no job {job_id}.")
    return job


def list_page(db: Session, tenant: str, limit: int, after: str | None, status: str | None = None) -> Page[Job]:
    query = sa.select(Job).where(Job.tenant == tenant)
    return newest_first(db, Job, query.where(Job.status == status) if status else query, limit, after)


def latest(db: Session, tenant: str, subject: str, kind: str) -> Job | None:
    query = sa.select(Job).where(Job.tenant == tenant, Job.subject == subject, Job.kind == kind)
    return db.scalar(query.order_by(Job.created_at.desc()).limit(1))


def behind(db: Session, job: Job) -> int:
    """How many jobs of its kind wait before it."""
    query = sa.select(sa.func.count()).where(Job.kind == job.kind, Job.status == "queued")
    return int(db.scalar(query.where(Job.created_at < job.created_at)) or 0)


def claim(db: Session, job_id: str, lost_after: float) -> Job | None:
    """Takes a job that waits, or whose worker was lost. None: somebody works on it, or it has ended."""
    lost = sa.and_(Job.status == "running", Job.heartbeat_at < now() - timedelta(seconds=lost_after))
    free = sa.or_(Job.status == "queued", lost)
    moment = now()
    values = {
        "status": "running",
        "attempt": Job.attempt + 1,
        "losses": sa.case((Job.status == "running", Job.losses + 1), else_=Job.losses),
        "heartbeat_at": moment,
        "started_at": sa.func.coalesce(Job.started_at, sa.literal(moment, Job.started_at.type)),
    }
    taken = _changed(db, sa.update(Job).where(Job.id == job_id, free).values(values))
    return db.scalar(sa.select(Job).where(Job.id == job_id)) if taken else None


def _held(job_id: str, attempt: int) -> sa.ColumnElement[bool]:
    return sa.and_(Job.id == job_id, Job.status == "running", Job.attempt == attempt)


def beat(db: Session, job_id: str, attempt: int) -> bool:
    """Alive. False: the job is no longer yours."""
    return _changed(db, sa.update(Job).where(_held(job_id, attempt)).values(heartbeat_at=now()))


def report(db: Session, job_id: str, attempt: int, phase: str, progress: Mapping[str, Any] | None) -> bool:
    values = {"phase": phase, "progress": dict(progress) if progress else None, "heartbeat_at": now()}
    return _changed(db, sa.update(Job).where(_held(job_id, attempt)).values(values))


def finish(
    db: Session,
    job_id: str,
    attempt: int,
    status: str,
    error: Mapping[str, Any] | None = None,
    result: Mapping[str, Any] | None = None,
) -> bool:
    """Ends a job that the caller holds. False: it is not the caller's any more."""
    return _changed(db, sa.update(Job).where(_held(job_id, attempt)).values(_ended(status, error, result)))


def _ended(status: str, error: Mapping[str, Any] | None, result: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "status": status,
        "phase": None if status == "succeeded" else Job.phase,
        "error": dict(error) if error else None,
        "result": dict(result) if result else None,
        "finished_at": now(),
    }


def request_cancel(db: Session, tenant: str, job_id: str) -> bool:
    """Marks a job for cancelling; one that nobody works on ends at once. True when it ended here."""
    get(db, tenant, job_id)
    mine = sa.and_(Job.tenant == tenant, Job.id == job_id)
    asked = sa.update(Job).where(mine, Job.status.in_(OPEN), Job.cancel_requested_at.is_(None))
    db.execute(asked.values(cancel_requested_at=now()))
    return _changed(db, sa.update(Job).where(mine, Job.status == "queued").values(_ended("cancelled", None, None)))


def retry(db: Session, tenant: str, job_id: str) -> Job:
    """Back in the queue, as if nothing had gone wrong; it goes on from what is saved."""
    job = get(db, tenant, job_id)
    if job.status not in ("failed", "cancelled"):
        raise Conflict(
            f"The job is {job.status}: one that failed or was cancelled can be retried.", code="not_retryable"
        )
    job.status, job.phase, job.losses = "queued", "waiting", 0
    job.error = job.result = job.progress = job.cancel_requested_at = job.finished_at = job.sent_at = None
    db.flush()
    return job


def cancel_requested(db: Session, job_id: str) -> bool:
    """Also true when the job is gone, with its subject."""
    found = db.execute(sa.select(Job.cancel_requested_at).where(Job.id == job_id)).first()
    return found is None or found[0] is not None


def mark_sent(db: Session, job_id: str) -> None:
    db.execute(sa.update(Job).where(Job.id == job_id).values(sent_at=now()))


def got_on(db: Session, job_id: str, attempt: int) -> None:
    """Something was saved: what went wrong before does not count any more."""
    db.execute(sa.update(Job).where(_held(job_id, attempt), Job.losses > 0).values(losses=0))


def give_back(db: Session, job_id: str, attempt: int, *, lost: bool) -> bool:
    """Puts a held job back in the queue, for another worker. `lost`: because something went wrong."""
    values = {"status": "queued", "sent_at": None, "losses": Job.losses + int(lost)}
    return _changed(db, sa.update(Job).where(_held(job_id, attempt)).values(values))


def lost(db: Session, lost_after: float) -> list[Job]:
    """Running jobs without a heartbeat, of all tenants: for the sweep."""
    stale = Job.heartbeat_at < now() - timedelta(seconds=lost_after)
    return list(db.scalars(sa.select(Job).where(Job.status == "running", stale)))


def unsent(db: Session, sent_before: datetime) -> list[Job]:
    """Queued jobs of all tenants whose message was never sent, or long ago: for the sweep."""
    old = sa.or_(Job.sent_at.is_(None), Job.sent_at < sent_before)
    settled = Job.created_at < now() - timedelta(seconds=2)  # the gateway is about to send the newest itself
    return list(db.scalars(sa.select(Job).where(Job.status == "queued", old, settled).order_by(Job.created_at)))


def _changed(db: Session, statement: sa.Update) -> bool:
    done = db.execute(statement.execution_options(synchronize_session=False))
    return bool(cast(Any, done).rowcount)
