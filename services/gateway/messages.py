"""/v1/sessions/{id}/messages: a question, and its answer as JSON or as a stream."""

import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from services import errors, jobs, log
from services.events import DONE, Event
from services.gateway import schemas as out
from services.gateway import show, sse, work
from services.gateway.deps import Clean, Parts, PartsDep, TenantDep
from services.gateway.problems import responses
from services.library import sessions, sources
from services.library.tables import Job

router = APIRouter(prefix="/sessions/{session_id}/messages", tags=["sessions"])

CLIENT_GONE = 499
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `Accept: text/event-stream` its events as they happen",
        "content": {
            sse.MEDIA_TYPE: {
                "schema": {"type": "string"},
                "example": 'id: 1700000000000-0\nevent: delta\ndata: {"text": "It is a truth"}\n\n',
            }
        },
    }
}


@router.get("", operation_id="list_messages", responses=responses(404))
def list_messages(here: PartsDep, tenant: TenantDep, session_id: Clean) -> out.Listed[out.MessageOut]:
    """Those that lead to the session's head, oldest first."""
    with here.database.read() as db:
        return out.Listed(data=[show.message(turn) for turn in sessions.history(db, tenant, session_id)])


@router.post(
    "",
    operation_id="create_message",
    response_model=out.MessageOut,
    responses={**STREAM, **responses(404, 409, 422, 503, 504)},
)
async def create_message(
    request: Request, here: PartsDep, tenant: TenantDep, session_id: Clean, body: out.MessageNew
) -> Response:
    """Asks. Closing the connection cancels the answer; a cancelled question leaves the session where it was."""
    job = await run_in_threadpool(_ask, here, tenant, session_id, body)
    stream = _answer(here, tenant, job)
    if sse.wanted(request):
        return sse.response(stream, request)
    return await _whole(here, tenant, job, stream, request)


def _ask(here: Parts, tenant: str, session_id: str, body: out.MessageNew) -> Job:
    with here.database.write() as db:
        turn = sessions.add_turn(db, tenant, session_id, body.content, body.expected_head)
        for link in sessions.get(db, tenant, session_id).sources:
            source = sources.get(db, tenant, link.source_id)
            if source.status != "ready":
                raise errors.NotReady(f"{source.title} is {source.status}.", source_id=source.id)
        job = work.new_job(db, tenant, jobs.Kinds.answer, turn.id)
        turn.job_id = job.id
    work.send(here, job)
    return job


async def _answer(here: Parts, tenant: str, job: Job) -> AsyncIterator[Event | None]:
    """The job's events. Left early, for whatever reason, it cancels the job."""
    watch, deadline = work.Watch(here, jobs.Queues.interactive), time.monotonic() + here.settings.answer_seconds
    started = ended = False
    try:
        async for event in work.follow(here, tenant, job.id):
            ended, started = event is not None and event.event == DONE, started or event is not None
            yield event
            if event is None and (trouble := await _trouble(watch, deadline, started)):
                yield Event("", "error", trouble.problem(None, job.request_id))
                return
    finally:
        if not ended:
            with anyio.CancelScope(shield=True):
                await run_in_threadpool(work.cancel, here, tenant, job.id)


async def _trouble(watch: work.Watch, deadline: float, started: bool) -> errors.ShioriError | None:
    if time.monotonic() > deadline:
        return errors.DeadlineExceeded("The answer took too long and was cancelled.")
    if not started and await watch.nobody():
        return errors.Unavailable("No worker is listening for questions.", code="no_worker")
    return None


async def _whole(here: Parts, tenant: str, job: Job, stream: Any, request: Request) -> Response:
    """Waits for the end. The answer is taken from the database, never pieced together from events."""
    problem: dict[str, Any] | None = None
    try:
        async for event in stream:
            if event is not None and event.event == "error":
                problem = event.data
            if event is None and await request.is_disconnected():
                return Response(status_code=CLIENT_GONE)
    finally:
        await stream.aclose()
    message = await run_in_threadpool(_stored, here, tenant, job.subject)
    if message is not None and message.status == "succeeded":
        return JSONResponse(message.model_dump(mode="json"))
    return _failed(message, problem, request)


def _stored(here: Parts, tenant: str, turn_id: str) -> out.MessageOut | None:
    with here.database.read() as db:
        try:
            return show.message(sessions.get_turn(db, tenant, turn_id))
        except errors.NotFound:
            return None


def _failed(message: out.MessageOut | None, problem: dict[str, Any] | None, request: Request) -> Response:
    stored = message.error.model_dump() if message and message.error else None
    body = stored or problem or _cancelled()
    body = {**body, "instance": request.url.path, "request_id": request.state.request_id}
    # 499 is for logs; a caller who is still there learns that somebody cancelled the question
    body["status"] = 409 if body["status"] == CLIENT_GONE else body["status"]
    return JSONResponse(body, body["status"], media_type=errors.MEDIA_TYPE)


def _cancelled() -> dict[str, Any]:
    return errors.Cancelled("The question was cancelled.").problem(None, log.request_id())
