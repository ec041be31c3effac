"""One run of one job: what the work is given, and the pulse that keeps its claim alive."""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import redis as sync_redis
from sqlalchemy.orm import Session

from services import errors, events, jobs, log
from services.library import jobs as rows
from services.library.db import Database
from services.library.tables import Job
from services.settings import Settings
from services.worker.engine import GuardedModel

logger = log.get_logger(__name__)

LOOK_SECONDS = 0.3  # how often a running job looks whether it was cancelled
REPORT_SECONDS = 0.5  # progress goes no more often than this
NO_COUNT = {"done": 0, "total": 0, "rate": None, "eta_s": None}


class Lost(Exception):
    """The job was given to somebody else, or deleted: stop, and touch nothing."""


class Drained(Exception):
    """The worker is shutting down: another one goes on from what is saved."""


class Flag(Protocol):
    """threading.Event and multiprocessing.Event."""

    def is_set(self) -> bool: ...


@dataclass
class Tools:
    """What a worker process holds on to; made after the fork."""

    settings: Settings
    database: Database
    redis: sync_redis.Redis
    model_of: Callable[[str], Any]
    draining: Flag = field(default_factory=threading.Event)


@dataclass
class Run:
    tools: Tools
    job: Job
    stopped: str = ""  # "cancelled", "lost" or "drained"
    phase: str = "starting"
    model: GuardedModel = field(init=False)
    _reported: float = 0.0
    _progress: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.model = GuardedModel(self.tools.model_of(self.job.tenant), self.check)

    @property
    def tenant(self) -> str:
        return self.job.tenant

    @property
    def settings(self) -> Settings:
        return self.tools.settings

    def check(self) -> None:
        """Raises when the job must stop."""
        if self.stopped == "cancelled":
            raise errors.Cancelled("Cancelled.")
        if self.stopped == "lost":
            raise Lost(self.job.id)
        if self.stopped == "drained":
            raise Drained(self.job.id)

    def is_stopped(self) -> bool:
        return bool(self.stopped)

    def stop(self, why: str) -> None:
        self.stopped = self.stopped or why
        self.model.stop()

    def emit(self, event: str, data: Mapping[str, Any]) -> None:
        """To the job's stream. A Redis that is away costs the event, not the job."""
        self.check()
        self.tell(event, data)

    def tell(self, event: str, data: Mapping[str, Any]) -> None:
        with suppress(sync_redis.RedisError):
            events.append(self.tools.redis, self.job.id, event, dict(data))

    def enter(self, phase: str) -> None:
        self.report(phase, self._progress, force=True)

    def report(self, phase: str, progress: dict[str, Any] | None = None, *, force: bool = False) -> None:
        """Phase and progress to the row and to the stream; not too often."""
        self.check()
        new = phase != self.phase or force
        if not new and time.monotonic() - self._reported < REPORT_SECONDS:
            return
        self.phase, self._progress, self._reported = phase, progress, time.monotonic()
        with self.tools.database.write() as db:
            if not rows.report(db, self.job.id, self.job.attempt, phase, progress):
                raise Lost(self.job.id)
        self.tell("progress", {**NO_COUNT, **(progress or {}), "phase": phase})

    def write(self) -> "Fenced":
        """A transaction that only commits while the job is still this run's."""
        return Fenced(self)


class Fenced:
    """`with run.write() as db:`"""

    def __init__(self, run: Run) -> None:
        self.run, self._context = run, run.tools.database.write()

    def __enter__(self) -> Session:
        self.run.check()
        db = self._context.__enter__()
        if not rows.beat(db, self.run.job.id, self.run.job.attempt):
            self._context.__exit__(Lost, Lost(self.run.job.id), None)
            raise Lost(self.run.job.id)
        return db

    def __exit__(self, *error: Any) -> bool | None:
        return self._context.__exit__(*error)


class Pulse:
    """A thread that keeps the job's heartbeat and looks whether somebody cancelled it."""

    def __init__(self, run: Run) -> None:
        self.run, self._end = run, threading.Event()
        self._thread = threading.Thread(target=self._loop, name=f"pulse-{run.job.id}", daemon=True)

    def __enter__(self) -> "Pulse":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(5)

    def _loop(self) -> None:
        beaten = time.monotonic()
        look = min(LOOK_SECONDS, self.run.settings.heartbeat_seconds / 2)
        while not self._end.wait(look) and not self.run.stopped:
            due = time.monotonic() - beaten >= self.run.settings.heartbeat_seconds
            try:
                self._look(due)
            except Exception as error:  # a database or Redis that is away: the next look may find it again
                logger.warning("pulse_missed", job=self.run.job.id, error=type(error).__name__)
            beaten = time.monotonic() if due else beaten
            if self.run.model.silent():
                self.run.model.stop()

    def _look(self, due: bool) -> None:
        run = self.run
        if run.tools.draining.is_set():
            return run.stop("drained")
        if jobs.cancel_requested(run.tools.redis, run.job.id):
            return run.stop("cancelled")
        if not due:
            return
        with run.tools.database.write() as db:
            alive = rows.beat(db, run.job.id, run.job.attempt)
            cancelled = rows.cancel_requested(db, run.job.id)
        if not alive:
            run.stop("lost")
        elif cancelled:
            run.stop("cancelled")
