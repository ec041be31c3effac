"""Routes that documents and repositories share, made once for each kind."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response, UploadFile
from sqlalchemy.orm import Session

from services import jobs
from services.errors import InvalidInput, NotFound
from services.gateway import schemas as out
from services.gateway import show, work
from services.gateway.deps import After, Clean, Limit, Parts, PartsDep, TenantDep
from services.gateway.idempotent import Made, once
from services.gateway.problems import responses
from services.library import blobs, idempotency, sources, summaries
from services.library import jobs as job_rows

NAME_LENGTH = 255
LISTED_SYMBOLS = 500


def add_shared_routes(router: APIRouter, kind: str) -> None:
    for add in (_add_reading, _add_text, _add_summaries):
        add(router, kind)


def _add_reading(router: APIRouter, kind: str) -> None:
    @router.get("", operation_id=f"list_{router.prefix[1:]}")
    def list_sources(
        here: PartsDep, tenant: TenantDep, limit: Limit = 50, after: After = None
    ) -> out.Page[out.SourceOut]:
        with here.database.read() as db:
            page = sources.list_page(db, tenant, kind, limit, after)
            data = [show.source(row, brief=True) for row in page.data]
        return out.Page(data=data, has_more=page.has_more, next_cursor=page.next_cursor)

    @router.get("/{source_id}", operation_id=f"get_{kind}", responses=responses(404))
    def get_source(here: PartsDep, tenant: TenantDep, source_id: Clean) -> out.SourceOut:
        with here.database.read() as db:
            return show.source(
                sources.get(db, tenant, source_id, kind),
                sources.find_reading(db, tenant, source_id),
                _title_of(db, tenant),
            )

    @router.delete("/{source_id}", operation_id=f"delete_{kind}", status_code=204, responses=responses(404))
    def delete_source(here: PartsDep, tenant: TenantDep, source_id: Clean) -> Response:
        """With its text, summaries, readings and every conversation about it: nothing keeps a word of it."""
        work.delete_source(here, tenant, kind, source_id)
        return Response(status_code=204)


def _title_of(db: Session, tenant: str) -> Callable[[str], str | None]:
    def title(source_id: str) -> str | None:
        try:
            return sources.get(db, tenant, source_id).title
        except NotFound:
            return None

    return title


def _add_text(router: APIRouter, kind: str) -> None:
    @router.get("/{source_id}/text", operation_id=f"get_{kind}_text", responses=responses(404, 422))
    def get_text(
        here: PartsDep,
        tenant: TenantDep,
        source_id: Clean,
        start: Annotated[int, Query(alias="from", ge=0)] = 0,
        stop: Annotated[int | None, Query(alias="to", ge=0)] = None,
    ) -> out.TextOut:
        """Characters [from, to) of the text that all offsets point into; a million at most."""
        with here.database.read() as db:
            characters = sources.get(db, tenant, source_id, kind).characters or 0
            text, start, stop = sources.text(db, tenant, source_id, start, stop)
        return out.TextOut(text=text, from_=start, to=stop, characters=characters)


def _add_summaries(router: APIRouter, kind: str) -> None:
    @router.get("/{source_id}/summaries", operation_id=f"get_{kind}_summaries", responses=responses(404))
    def get_summaries(here: PartsDep, tenant: TenantDep, source_id: Clean) -> out.SummariesOut:
        with here.database.read() as db:
            sources.get(db, tenant, source_id, kind)
            job = job_rows.latest(db, tenant, source_id, jobs.Kinds.summarise)
            return show.summaries(summaries.listed(db, tenant, source_id), job)

    @router.post(
        "/{source_id}/summaries", operation_id=f"make_{kind}_summaries", status_code=202, responses=responses(404, 409)
    )
    def make_summaries(here: PartsDep, tenant: TenantDep, source_id: Clean, response: Response) -> out.SummariesOut:
        """Throws the old ones away and makes them anew. While that runs already, nothing new is started."""
        with here.database.write() as db:
            sources.ready(db, tenant, source_id, kind)
            job = job_rows.latest(db, tenant, source_id, jobs.Kinds.summarise)
            fresh = job is None or job.status in work.ENDED
            if fresh:
                summaries.clear(db, tenant, source_id)
                job = work.new_job(db, tenant, jobs.Kinds.summarise, source_id)
            shown = show.summaries(summaries.listed(db, tenant, source_id), job)
        if fresh and job:
            work.send(here, job)
        response.headers["Location"] = f"/v1/jobs/{shown.job_id}"
        return shown


def store_upload(here: Parts, file: UploadFile) -> tuple[blobs.Blob, str]:
    """The bytes under their hash, and a file name without a path."""
    name = clean_name(file.filename or "")
    blob = blobs.store(here.settings.blob_dir, file.file, here.settings.max_upload_bytes)
    if blob.bytes == 0:
        raise InvalidInput(f"{name} is empty.", code="empty_file", errors=[{"pointer": "/file", "detail": "is empty"}])
    return blob, name


def clean_name(filename: str) -> str:
    last = filename.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(c for c in last if c.isprintable()).strip()[-NAME_LENGTH:] or "unnamed"


def start_reading(
    here: Parts, tenant: str, key: str | None, kind: str, title: str, fields: dict[str, Any], what: tuple[str, ...]
) -> Response:
    """The row and its ingest job in one transaction; 202 with where to follow the job."""

    def make(db: Session) -> Made:
        if fields.get("previous"):
            sources.ready(db, tenant, fields["previous"], kind)
        source = sources.create(db, tenant, kind, title, **fields)
        job = work.new_job(db, tenant, jobs.Kinds.ingest, source.id)
        source.job_id = job.id
        db.flush()
        return Made(202, show.source(source), f"/v1/jobs/{job.id}", job)

    return once(here, tenant, key, idempotency.fingerprint(kind, *what), make)


def take_file(
    here: Parts, tenant: str, key: str | None, kind: str, file: UploadFile, previous: str | None = None
) -> Response:
    blob, name = store_upload(here, file)
    fields = {"filename": name, "media_type": file.content_type, "sha256": blob.sha256, "bytes": blob.bytes}
    fields["previous"] = previous or None
    return start_reading(here, tenant, key, kind, name, fields, (name, blob.sha256, previous or ""))
