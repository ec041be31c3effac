"""Celery tasks: ids in, a plain function, the outcome recorded (by run.perform)."""

import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import redis
from celery import Celery, Task

from services import jobs
from services.inference.client import InferenceClient
from services.library.db import Database
from services.settings import Settings
from services.worker.answer import answer
from services.worker.bin import empty_bin
from services.worker.ingest import ingest
from services.worker.perform import perform
from services.worker.run import Flag, Run, Tools
from services.worker.summarise import summarise
from services.worker.sweep import BIN_TASK

WORK: dict[jobs.Kinds, Callable[[Run, str], dict[str, Any]]] = {
    jobs.Kinds.ingest: ingest,
    jobs.Kinds.summarise: summarise,
    jobs.Kinds.answer: answer,
}


def make_tools(settings: Settings, model_of: Callable[[str], Any] | None = None, draining: Flag | None = None) -> Tools:
    connection = redis.Redis.from_url(settings.redis_url, socket_connect_timeout=2, socket_timeout=5)
    database, flag = Database(settings.database_url), draining or threading.Event()
    return Tools(settings, database, connection, model_of or _clients(settings), flag)


def _clients(settings: Settings) -> Callable[[str], InferenceClient]:
    @lru_cache(maxsize=64)
    def client(tenant: str) -> InferenceClient:
        return InferenceClient(settings.engine_address, tenant)

    return client


def register(app: Celery, tools: Callable[[], Tools]) -> None:
    """`tools()` gives the process's own, made after the fork."""
    for kind, work in WORK.items():
        app.task(name=jobs.task_name(kind), base=Base)(_task(work, tools))
    app.task(name=BIN_TASK)(_bin_task(tools))


def _task(work: Callable[[Run, str], dict[str, Any]], tools: Callable[[], Tools]) -> Callable[..., None]:
    def task(subject: str, job_id: str) -> None:
        perform(tools(), job_id, lambda run: work(run, subject))

    return task


def _bin_task(tools: Callable[[], Tools]) -> Callable[[], None]:
    def empty() -> None:  # Celery compiles a function's name: a lambda has none
        empty_bin(tools())

    return empty


class Base(Task):
    """Acknowledged after the work, so a killed worker's message is not lost; run twice, it works once."""

    abstract = True
    acks_late = True
    reject_on_worker_lost = True
    ignore_result = True
