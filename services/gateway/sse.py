"""Server-sent events: the wire format, heartbeats, and noticing that nobody listens any more."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse

from services.events import Event

HEARTBEAT_SECONDS = 5.0
MEDIA_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def wanted(request: Request) -> bool:
    return MEDIA_TYPE in request.headers.get("accept", "")


def response(stream: AsyncIterator[Event | None], request: Request) -> StreamingResponse:
    return StreamingResponse(_frames(stream, request), media_type=MEDIA_TYPE, headers=HEADERS)


def frame(event: Event) -> str:
    identity = f"id: {event.id}\n" if event.id else ""
    return f"{identity}event: {event.event}\ndata: {json.dumps(event.data, ensure_ascii=False)}\n\n"


async def _frames(stream: AsyncIterator[Event | None], request: Request) -> AsyncIterator[str]:
    """None from the stream is a quiet moment: a comment now and then, and a look whether the reader is still there."""
    yield ": hello\n\n"
    spoke = time.monotonic()
    try:
        async for event in stream:
            if event is not None:
                yield frame(event)
                spoke = time.monotonic()
            elif time.monotonic() - spoke > HEARTBEAT_SECONDS:
                yield ": still here\n\n"
                spoke = time.monotonic()
            if await request.is_disconnected():
                return
    finally:
        await _close(stream)


async def _close(stream: Any) -> None:
    """Runs the stream's own `finally`: that is where an answer nobody waits for is cancelled."""
    await stream.aclose()
