"""The event stream of a job: append in the worker, follow in the gateway. One capped, expiring Redis stream per job.

An event's id ("1700000000000-0") is monotonic within its job, so a reader that lost its connection goes on after it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import redis as sync_redis
import redis.asyncio as async_redis

START = "0-0"
DONE = "done"
KEEP_EVENTS = 20_000
KEEP_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Event:
    id: str
    event: str
    data: dict[str, Any]


def key(job_id: str) -> str:
    return f"shiori:events:{job_id}"


def append(redis: sync_redis.Redis, job_id: str, event: str, data: dict[str, Any]) -> str:
    """Adds an event and returns its id."""
    fields: Any = {"event": event, "data": json.dumps(data, ensure_ascii=False, default=str)}
    with redis.pipeline(transaction=False) as pipe:
        pipe.xadd(key(job_id), fields, maxlen=KEEP_EVENTS, approximate=True)
        pipe.expire(key(job_id), KEEP_SECONDS)
        event_id = pipe.execute()[0]
    return _text(event_id)


def read(redis: sync_redis.Redis, job_id: str, after: str = START, block_ms: int | None = None) -> list[Event]:
    """Events after the given id; with block_ms, waits that long for the first one."""
    reply = redis.xread({key(job_id): after}, count=500, block=block_ms)
    return _parse(reply)


def follow(redis: sync_redis.Redis, job_id: str, after: str = START, block_ms: int = 1000) -> Iterator[Event | None]:
    """Events until `done`; None whenever nothing came for block_ms, so that the caller can look around."""
    while True:
        found = read(redis, job_id, after, block_ms)
        if not found:
            yield None
        for event in found:
            after = event.id
            yield event
            if event.event == DONE:
                return


async def read_async(redis: async_redis.Redis, job_id: str, after: str, block_ms: int = 1000) -> list[Event]:
    """The same as `read`, for the gateway's streams."""
    return _parse(await redis.xread({key(job_id): after}, count=500, block=block_ms))


def forget(redis: sync_redis.Redis, job_id: str) -> None:
    redis.delete(key(job_id))


def is_id(value: str) -> bool:
    """Whether a client's Last-Event-ID looks like one of ours."""
    milliseconds, dash, sequence = value.partition("-")
    return milliseconds.isdecimal() and (not dash or sequence.isdecimal()) and len(value) < 40


def _parse(reply: Any) -> list[Event]:
    streams = cast(Any, reply) or []
    entries = next(iter(streams.values()))[0] if isinstance(streams, dict) else (streams[0][1] if streams else [])
    return [_event(entry_id, fields) for entry_id, fields in entries]


def _event(entry_id: Any, fields: dict[Any, Any]) -> Event:
    plain = {_text(name): _text(value) for name, value in fields.items()}
    return Event(_text(entry_id), plain["event"], json.loads(plain["data"]))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
