"""/v1/sessions: conversations over readings, with bookmarks, forks and rewinding."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from services.gateway import schemas as out
from services.gateway import show, work
from services.gateway.deps import After, Clean, Limit, PartsDep, TenantDep
from services.gateway.idempotent import Key, Made, once
from services.gateway.problems import responses
from services.library import idempotency, sessions

router = APIRouter(prefix="/sessions", tags=["sessions"])


@router.post(
    "",
    operation_id="create_session",
    status_code=201,
    response_model=out.SessionOut,
    responses=responses(404, 409, 422),
)
def create_session(here: PartsDep, tenant: TenantDep, body: out.SessionNew, idempotency_key: Key = None) -> Response:
    """A new conversation over one or more sources."""

    def make(db: Session) -> Made:
        chapter = body.until_chapter
        until = None if chapter is None else sessions.chapter_end(db, tenant, body.source_ids, chapter)
        made = show.session(sessions.create(db, tenant, body.source_ids, body.title, until=until))
        return Made(201, made, f"/v1/sessions/{made.id}")

    what = idempotency.fingerprint("session", body.model_dump_json())
    return once(here, tenant, idempotency_key, what, make)


@router.get("", operation_id="list_sessions")
def list_sessions(
    here: PartsDep,
    tenant: TenantDep,
    limit: Limit = 50,
    after: After = None,
    source_id: Annotated[Clean | None, Query(description="Only those over this source")] = None,
) -> out.Page[out.SessionOut]:
    with here.database.read() as db:
        page = sessions.list_page(db, tenant, limit, after, source_id)
        data = [show.session(row) for row in page.data]
    return out.Page(data=data, has_more=page.has_more, next_cursor=page.next_cursor)


@router.get("/{session_id}", operation_id="get_session", responses=responses(404))
def get_session(here: PartsDep, tenant: TenantDep, session_id: Clean) -> out.SessionOut:
    with here.database.read() as db:
        return show.session(sessions.get(db, tenant, session_id))


@router.patch("/{session_id}", operation_id="rename_session", responses=responses(404, 422))
def rename_session(here: PartsDep, tenant: TenantDep, session_id: Clean, body: out.SessionChange) -> out.SessionOut:
    with here.database.write() as db:
        return show.session(sessions.rename(db, tenant, session_id, body.title))


@router.delete("/{session_id}", operation_id="delete_session", status_code=204, responses=responses(404))
def delete_session(here: PartsDep, tenant: TenantDep, session_id: Clean) -> Response:
    """With its messages and its state in the engine. An answer under way is cancelled."""
    work.delete_session(here, tenant, session_id)
    return Response(status_code=204)


@router.get("/{session_id}/bookmarks", operation_id="list_bookmarks", responses=responses(404))
def list_bookmarks(here: PartsDep, tenant: TenantDep, session_id: Clean) -> out.Listed[out.BookmarkOut]:
    with here.database.read() as db:
        rows = sessions.bookmarks(db, tenant, session_id)
    return out.Listed(data=[out.BookmarkOut.model_validate(row) for row in rows])


@router.post(
    "/{session_id}/bookmarks", operation_id="create_bookmark", status_code=201, responses=responses(404, 409, 422)
)
def create_bookmark(here: PartsDep, tenant: TenantDep, session_id: Clean, body: out.BookmarkNew) -> out.BookmarkOut:
    """Names the place where the session stands."""
    with here.database.write() as db:
        return out.BookmarkOut.model_validate(sessions.add_bookmark(db, tenant, session_id, body.name))


@router.post("/{session_id}/fork", operation_id="fork_session", status_code=201, responses=responses(404, 422))
def fork_session(
    here: PartsDep, tenant: TenantDep, session_id: Clean, response: Response, body: out.Fork | None = None
) -> out.SessionOut:
    """A new session that goes on from a bookmark, a message or the head of this one."""
    wanted = body or out.Fork(bookmark=None)
    with here.database.write() as db:
        made = show.session(sessions.fork(db, tenant, session_id, wanted.bookmark, wanted.title))
    response.headers["Location"] = f"/v1/sessions/{made.id}"
    return made


@router.post("/{session_id}/rewind", operation_id="rewind_session", responses=responses(404, 409, 422))
def rewind_session(here: PartsDep, tenant: TenantDep, session_id: Clean, body: out.Rewind) -> out.SessionOut:
    """Moves the head back. What came after stays reachable through its bookmarks and message ids."""
    with here.database.write() as db:
        return show.session(sessions.rewind(db, tenant, session_id, body.bookmark))
