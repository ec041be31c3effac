"""A thread of the worker's main process: says that it listens, and picks up what was left lying.

It uses SQL and Redis only. gRPC threads do not survive the forks that the main process makes for its pool.
"""

import threading
import time
from collections.abc import Sequence
from datetime import timedelta

import redis

from services import errors, jobs, log
from services.jobs import Queues
from services.library import jobs as rows
from services.library import sources
from services.library.tables import Job, now
from services.worker.perform import end, give_back, last_chance
from services.worker.run import Tools

logger = log.get_logger(__name__)

ANNOUNCE_SECONDS = 3.0
RESEND_SECONDS = 20.0  # a job that waits while its queue is empty: its message was lost
BIN_TASK = "shiori.empty_bin"


class Sweep:
    def __init__(self, tools: Tools, queues: Sequence[Queues], name: str) -> None:
        self.tools, self.queues, self.name = tools, list(queues), name
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="sweep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join(2)
        jobs.retire(self.tools.redis, self.name, self.queues)

    def _loop(self) -> None:
        pause = min(ANNOUNCE_SECONDS, self.tools.settings.worker_lost_seconds / 4)
        while not self._end.is_set():
            try:
                jobs.announce(self.tools.redis, self.name, self.queues, time.time())
                sweep(self.tools)
            except Exception as error:
                logger.warning("sweep_failed", error=f"{type(error).__name__}: {error}"[:300])
            self._end.wait(pause)


def sweep(tools: Tools) -> None:
    """Once: lost workers' jobs, jobs without a message, engine states without an owner."""
    with tools.database.read() as db:
        lost = rows.lost(db, tools.settings.worker_lost_seconds)
        resend = min(RESEND_SECONDS, tools.settings.worker_lost_seconds)
        unsent = rows.unsent(db, now() - timedelta(seconds=resend))
        condemned = sources.discarded(db, limit=1)
    for job in lost:
        _take_up(tools, job)
    for job in unsent:
        _send(tools, job)
    if condemned and tools.redis.set("shiori:bin", 1, nx=True, ex=10):
        jobs.celery_app(tools.settings).send_task(BIN_TASK, queue=Queues.interactive.value, expires=60)


def _take_up(tools: Tools, job: Job) -> None:
    """Its worker died: again, or not when that happened too often or it was cancelled meanwhile."""
    if job.cancel_requested_at is not None:
        ended = end(tools, job, "cancelled")
    elif last_chance(tools, job):
        times = tools.settings.job_attempts
        ended = end(tools, job, "failed", errors.WorkerLost(f"The worker was lost {times} times on this job."))
    else:
        return _again(tools, job)
    if ended:
        logger.warning("job_reaped", job=job.id, attempt=job.attempt)


def _again(tools: Tools, job: Job) -> None:
    if give_back(tools, job, lost=True):
        logger.warning("worker_lost", job=job.id, attempt=job.attempt)
        _send(tools, job, force=True)


def _send(tools: Tools, job: Job, *, force: bool = False) -> None:
    """Not while its queue has messages: one of them may be its own."""
    queue = jobs.QUEUE_OF[jobs.Kinds(job.kind)].value
    if not force and job.sent_at is not None and _length(tools.redis, queue):
        return
    jobs.enqueue(tools.settings, job.kind, job.subject, job.id, job.request_id)
    with tools.database.write() as db:
        rows.mark_sent(db, job.id)


def _length(connection: redis.Redis, queue: str) -> int:
    return int(connection.llen(queue))
