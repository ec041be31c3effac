"""Jobs as the gateway handles them: made with their subject, sent after the commit, followed, cancelled."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import redis
from redis.asyncio import RedisError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from services import errors, events, jobs, log
from services.gateway.deps import Parts
from services.library import blobs, deletion, outcomes, search
from services.library import jobs as rows
from services.library.tables import Job

logger = log.get_logger(__name__)

ENDED = ("succeeded", "failed", "cancelled")
NO_WORKER_SECONDS = 10.0


def new_job(db: Session, tenant: str, kind: jobs.Kinds, subject: str) -> Job:
    return rows.create(db, tenant, kind.value, subject, log.request_id())


def send(here: Parts, job: Job) -> None:
    """After the commit. When Redis is away the worker's sweep sends it later, so this never fails."""
    try:
        jobs.enqueue(here.settings, job.kind, job.subject, job.id, job.request_id)
    except Exception as error:
        logger.warning("enqueue_failed", job=job.id, error=type(error).__name__)
        return
    with here.database.write() as db:
        rows.mark_sent(db, job.id)


def cancel(here: Parts, tenant: str, job_id: str) -> Job:
    """Idempotent. One that waits ends at once; one that runs is told, twice: in SQL and in Redis."""
    with here.database.write() as db:
        ended = cancel_in(db, tenant, job_id)
        job = rows.get(db, tenant, job_id)
    if job.status not in ENDED or ended:
        tell(here, job_id, ended)
    return job


def cancel_in(db: Session, tenant: str, job_id: str) -> bool:
    ended = rows.request_cancel(db, tenant, job_id)
    if ended:
        job = rows.get(db, tenant, job_id)
        db.refresh(job)
        outcomes.show(db, job, "cancelled")
    return ended


def tell(here: Parts, job_id: str, ended: bool) -> None:
    try:
        jobs.request_cancel(here.redis, job_id)
        if ended:
            events.append(here.redis, job_id, events.DONE, {"status": "cancelled", "error": None, "result": None})
    except redis.RedisError as error:  # SQL has it too
        logger.warning("cancel_flag_failed", job=job_id, error=type(error).__name__)


def delete_source(here: Parts, tenant: str, kind: str, source_id: str) -> None:
    """Removes it and all that holds its words; the sweep removes the engine's states soon after."""
    with here.database.write() as db:
        gone = deletion.delete_source(db, tenant, source_id, kind)
    _remove(here, gone)
    search.forget(here.settings.index_dir, source_id)
    if gone.blob:
        blobs.delete(here.settings.blob_dir, gone.blob)


def delete_session(here: Parts, tenant: str, session_id: str) -> None:
    with here.database.write() as db:
        gone = deletion.delete_session(db, tenant, session_id)
    _remove(here, gone)


def _remove(here: Parts, gone: deletion.Gone) -> None:
    """Event streams, and work under way. A stream that Redis keeps because it is away expires within a day."""
    here.database.checkpoint()
    for job_id in gone.running:
        tell(here, job_id, ended=False)
    try:
        for job_id in gone.jobs:
            events.forget(here.redis, job_id)
    except redis.RedisError as error:
        logger.warning("events_not_forgotten", error=type(error).__name__)


def retry(here: Parts, tenant: str, job_id: str) -> Job:
    """Back in the queue. Its events begin anew: a reader would stop at the old `done`."""
    with here.database.write() as db:
        job = rows.retry(db, tenant, job_id)
        outcomes.reopen(db, job)
        try:
            events.forget(here.redis, job_id)
            jobs.clear_cancel(here.redis, job_id)
        except redis.RedisError:
            raise errors.Unavailable("Redis is away; retry in a moment.") from None
    send(here, job)
    return job


Followed = AsyncIterator[events.Event | None]


async def follow(here: Parts, tenant: str, job_id: str, after: str = events.START) -> Followed:
    """A job's events until `done`; None in quiet moments. When Redis is away, the row says when it has ended."""
    ending = None
    while True:
        found = await _news(here, job_id, after)
        for event in found:
            after = event.id
            yield event
            if event.event == events.DONE:
                return
        if not found and ending:
            yield ending
            return
        if not found:
            ending = await run_in_threadpool(_ended, here, tenant, job_id)
            yield None


async def _news(here: Parts, job_id: str, after: str) -> list[events.Event]:
    try:
        return await events.read_async(here.stream, job_id, after)
    except RedisError as error:
        logger.warning("events_unreachable", job=job_id, error=type(error).__name__)
        await asyncio.sleep(1)
        return []


def _ended(here: Parts, tenant: str, job_id: str) -> events.Event | None:
    """`done`, made from the row, when the job has ended or is gone."""
    with here.database.read() as db:
        try:
            job = rows.get(db, tenant, job_id)
        except errors.NotFound:
            return events.Event("", events.DONE, {"status": "cancelled", "error": None, "result": None})
    return events.Event("", events.DONE, done_data(job)) if job.status in ENDED else None


def done_data(job: Job) -> dict[str, Any]:
    return {"status": job.status, "error": job.error, "result": job.result}


class Watch:
    """Whether anybody listens to a queue: a question that nobody will take should not wait for ever."""

    def __init__(self, here: Parts, queue: jobs.Queues) -> None:
        self.here, self.queue, self.seen = here, queue, time.monotonic()

    async def nobody(self) -> bool:
        """True once the queue has had no consumer for a while."""
        try:
            count = await run_in_threadpool(jobs.consumers, self.here.redis, self.queue, time.time())
        except redis.RedisError:
            count = 0
        if count:
            self.seen = time.monotonic()
        return time.monotonic() - self.seen > NO_WORKER_SECONDS
