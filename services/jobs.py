"""What the gateway may ask of the worker: by name, with ids only, after the row is committed.

The jobs table is the truth; a message is a nudge. Losing one, or getting one twice, does no harm: the worker claims the
job's row before it works, and a sweep sends again what was left lying.
"""

from enum import StrEnum
from functools import lru_cache
from typing import Any

import redis as sync_redis
from celery import Celery
from kombu import Exchange, Queue

from services.settings import Settings


class Queues(StrEnum):
    """The one list of queues: producers, worker command lines, compose and the readiness check use it."""

    interactive = "interactive"
    ingest = "ingest"
    summarise = "summarise"


class Kinds(StrEnum):
    """What a job can be."""

    ingest = "ingest"
    summarise = "summarise"
    answer = "answer"


QUEUE_OF = {Kinds.ingest: Queues.ingest, Kinds.summarise: Queues.summarise, Kinds.answer: Queues.interactive}
MESSAGE_LIFE_SECONDS = 24 * 3600
CANCEL_LIFE_SECONDS = 24 * 3600


def task_name(kind: str) -> str:
    return f"shiori.{Kinds(kind).value}"


@lru_cache(maxsize=8)
def _celery(broker: str, visibility: int) -> Celery:
    app = Celery("shiori", broker=broker)
    app.conf.update(
        task_queues=[
            Queue(queue.value, Exchange("shiori", type="direct"), routing_key=queue.value) for queue in Queues
        ],
        task_default_queue=Queues.interactive.value,
        task_create_missing_queues=False,
        task_routes={
            task_name(kind): {"queue": queue.value, "routing_key": queue.value} for kind, queue in QUEUE_OF.items()
        },
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        result_backend=None,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_track_started=False,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_soft_shutdown_timeout=5,
        worker_max_tasks_per_child=200,
        broker_connection_retry_on_startup=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # The shortest of the three wins, so all three say the same.
        broker_transport_options={"visibility_timeout": visibility, "socket_keepalive": True},
        result_backend_transport_options={"visibility_timeout": visibility},
        visibility_timeout=visibility,
        broker_transport="redis",
    )
    return app


def celery_app(settings: Settings) -> Celery:
    """The Celery application, the same for producers and workers."""
    return _celery(settings.redis_url, settings.visibility_seconds)


def enqueue(settings: Settings, kind: str, subject_id: str, job_id: str, request_id: str | None = None) -> None:
    """Tells the workers that a job waits. Call it after the commit."""
    headers: dict[str, Any] = {"request_id": request_id} if request_id else {}
    celery_app(settings).send_task(
        task_name(kind),
        args=[subject_id, job_id],
        queue=QUEUE_OF[Kinds(kind)].value,
        expires=MESSAGE_LIFE_SECONDS,
        headers=headers,
        retry=True,
        retry_policy={"max_retries": 2, "interval_start": 0.1, "interval_step": 0.2, "interval_max": 0.5},
    )


def _cancel_key(job_id: str) -> str:
    return f"shiori:cancel:{job_id}"


def request_cancel(redis: sync_redis.Redis, job_id: str) -> None:
    redis.set(_cancel_key(job_id), 1, ex=CANCEL_LIFE_SECONDS)


def cancel_requested(redis: sync_redis.Redis, job_id: str) -> bool:
    return bool(redis.exists(_cancel_key(job_id)))


def clear_cancel(redis: sync_redis.Redis, job_id: str) -> None:
    redis.delete(_cancel_key(job_id))


CONSUMER_SECONDS = 15


def announce(redis: sync_redis.Redis, worker: str, queues: list[Queues], moment: float) -> None:
    """A worker says that it listens; it does so every few seconds."""
    for queue in queues:
        redis.zadd(_consumers_key(queue), {worker: moment})
        redis.zremrangebyscore(_consumers_key(queue), 0, moment - 10 * CONSUMER_SECONDS)


def retire(redis: sync_redis.Redis, worker: str, queues: list[Queues]) -> None:
    for queue in queues:
        redis.zrem(_consumers_key(queue), worker)


def consumers(redis: sync_redis.Redis, queue: Queues, moment: float) -> int:
    """How many workers said lately that they listen to a queue."""
    return int(redis.zcount(_consumers_key(queue), moment - CONSUMER_SECONDS, "+inf"))


def _consumers_key(queue: Queues) -> str:
    return f"shiori:consumers:{queue.value}"
