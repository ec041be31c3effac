"""/v1/jobs: long work with progress, cancel and a result."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from services import events
from services.errors import InvalidInput
from services.gateway import schemas as out
from services.gateway import show, sse, work
from services.gateway.deps import After, Clean, Limit, Parts, PartsDep, TenantDep
from services.gateway.problems import responses
from services.library import jobs as rows

router = APIRouter(prefix="/jobs", tags=["jobs"])

LONGEST_WAIT = 60.0
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events until `done`; comments keep the line open",
        "content": {
            sse.MEDIA_TYPE: {
                "schema": {"type": "string"},
                "example": 'id: 1700000000000-0\nevent: progress\ndata: {"phase": "reading", "done": 512}\n\n',
            }
        },
    }
}


@router.get("", operation_id="list_jobs")
def list_jobs(
    here: PartsDep,
    tenant: TenantDep,
    limit: Limit = 50,
    after: After = None,
    status: Annotated[Clean | None, Query(description="queued, running, succeeded, failed or cancelled")] = None,
) -> out.Page[out.JobOut]:
    with here.database.read() as db:
        page = rows.list_page(db, tenant, limit, after, status)
    return out.Page(data=[show.job(row) for row in page.data], has_more=page.has_more, next_cursor=page.next_cursor)


@router.get("/{job_id}", operation_id="get_job", responses=responses(404))
async def get_job(
    here: PartsDep,
    tenant: TenantDep,
    job_id: Clean,
    wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT, description="Seconds to wait for its end")] = 0,
) -> out.JobOut:
    job = await run_in_threadpool(_load, here, tenant, job_id)
    if wait and job.status not in work.ENDED:
        with anyio.move_on_after(wait):
            async for _ in work.follow(here, tenant, job_id):
                pass
        job = await run_in_threadpool(_load, here, tenant, job_id)
    return job


def _load(here: Parts, tenant: str, job_id: str) -> out.JobOut:
    with here.database.read() as db:
        job = rows.get(db, tenant, job_id)
        return show.job(job, rows.behind(db, job) if job.status == "queued" else None)


@router.post("/{job_id}/cancel", operation_id="cancel_job", responses=responses(404))
def cancel_job(here: PartsDep, tenant: TenantDep, job_id: Clean) -> out.JobOut:
    """Idempotent. What waits ends now; what runs stops within seconds."""
    return show.job(work.cancel(here, tenant, job_id))


@router.post("/{job_id}/retry", operation_id="retry_job", status_code=202, responses=responses(404, 409, 503))
def retry_job(here: PartsDep, tenant: TenantDep, job_id: Clean) -> out.JobOut:
    """A job that failed or was cancelled, once more: it goes on from what is saved."""
    return show.job(work.retry(here, tenant, job_id))


@router.get("/{job_id}/events", operation_id="follow_job", responses={**STREAM, **responses(404, 422)})
async def follow_job(
    request: Request,
    here: PartsDep,
    tenant: TenantDep,
    job_id: Clean,
    after: Annotated[Clean | None, Query(description="Only events after this id")] = None,
    last_event_id: Annotated[Clean | None, Header(alias="Last-Event-ID")] = None,
) -> Response:
    """Replays what happened after the given id, then follows. Closing it stops nothing."""
    start = after or last_event_id or events.START
    if not events.is_id(start):
        raise InvalidInput(f"{start!r} is no event id.", code="bad_event_id")
    await run_in_threadpool(_load, here, tenant, job_id)
    stream: AsyncIterator[events.Event | None] = work.follow(here, tenant, job_id, start)
    return sse.response(stream, request)
