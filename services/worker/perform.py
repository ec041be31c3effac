"""A job from claim to end: claimed once, done, and how it ended recorded once."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import redis as sync_redis

from services import errors, events, jobs, log
from services.library import jobs as rows
from services.library import outcomes
from services.library.tables import Job
from services.worker.run import Drained, Lost, Pulse, Run, Tools

logger = log.get_logger(__name__)


def perform(tools: Tools, job_id: str, work: Callable[[Run], dict[str, Any] | None]) -> None:
    """Claims the job, does the work, records how it ended. Delivered twice, it runs once."""
    with tools.database.write() as db:
        job = rows.claim(db, job_id, tools.settings.worker_lost_seconds)
        if job is not None:
            outcomes.show(db, job, "running")
    if job is None:
        return logger.info("job_not_free", job=job_id)
    with log.bound(job=job.id, request_id=job.request_id or log.request_id()):
        logger.info("job_started", kind=job.kind, subject=job.subject, attempt=job.attempt)
        try:
            _perform(Run(tools, job), work)
        finally:
            _forget_if_deleted(tools, job)


def _forget_if_deleted(tools: Tools, job: Job) -> None:
    """A job that was deleted with its subject must leave no words: not what it told before it noticed either."""
    with tools.database.read() as db:
        deleted = db.get(Job, job.id) is None
    if deleted:
        with suppress(sync_redis.RedisError):
            events.forget(tools.redis, job.id)
            jobs.clear_cancel(tools.redis, job.id)


def _perform(run: Run, work: Callable[[Run], dict[str, Any] | None]) -> None:
    started = time.monotonic()
    status, result = "succeeded", None
    error: errors.ShioriError | None = None
    try:
        _refuse_to_start(run)
        with Pulse(run):
            result = work(run)
    except Lost:
        return logger.warning("job_lost")
    except Drained:
        give_back(run.tools, run.job, lost=False)
        return logger.info("job_handed_on")
    except errors.Cancelled:
        status = "cancelled"
    except errors.VaultFull as full:
        status, error = "failed", _with_advice(full)
    except errors.ShioriError as known:
        if known.retryable and not last_chance(run.tools, run.job) and give_back(run.tools, run.job, lost=True):
            return logger.warning("job_given_back", code=known.code)
        status, error = "failed", known
    except Exception as unknown:
        logger.exception("job_crashed")
        status, error = "failed", errors.wrap(unknown)
    seconds = round(time.monotonic() - started, 3)
    logger.info("job_ended", status=status, code=error.code if error else None, seconds=seconds)
    end(run.tools, run.job, status, error, result)


def _with_advice(full: errors.VaultFull) -> errors.VaultFull:
    """It does not get better by waiting: somebody must make room. The upload stays."""
    room = "raise the quota (SHIORI_QUOTA_MB)" if full.code == "quota_exceeded" else "give the vault more room"
    advice = f"{full.detail.rstrip('.')}. Delete sources that are no longer needed, or {room}; then retry."
    made = errors.VaultFull(advice, code=full.code)
    made.extra = full.extra
    return made


def _refuse_to_start(run: Run) -> None:
    """A job that was cancelled while nobody held it, or that keeps killing its workers."""
    if run.job.cancel_requested_at is not None:
        raise errors.Cancelled("Cancelled.")
    if run.job.losses >= run.settings.job_attempts:
        raise _NoMore(f"The worker was lost {run.settings.job_attempts} times on this job.")


class _NoMore(errors.WorkerLost):
    """Not to be tried again by itself; a person may."""

    retryable = False


def last_chance(tools: Tools, job: Job) -> bool:
    """One more failure is one too many."""
    return job.losses + 1 >= tools.settings.job_attempts


def give_back(tools: Tools, job: Job, *, lost: bool) -> bool:
    with tools.database.write() as db:
        given = rows.give_back(db, job.id, job.attempt, lost=lost)
        if given:
            outcomes.show(db, job, "queued")
    return given


def end(
    tools: Tools,
    job: Job,
    status: str,
    error: errors.ShioriError | None = None,
    result: Mapping[str, Any] | None = None,
) -> bool:
    """Row and subject in one transaction, then the `done` event. False: it was not this run's to end."""
    problem = error.problem(f"/v1/jobs/{job.id}", job.request_id) if error else None
    with tools.database.write() as db:
        if not rows.finish(db, job.id, job.attempt, status, problem, result):
            return False
        outcomes.show(db, job, status, problem)
    with suppress(sync_redis.RedisError):
        if problem:
            events.append(tools.redis, job.id, "error", problem)
        events.append(tools.redis, job.id, events.DONE, {"status": status, "error": problem, "result": result})
        jobs.clear_cancel(tools.redis, job.id)
    return True
