"""/v1/repositories: archives, or https clones pinned to a revision."""

from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Query, Request, Response, UploadFile
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile as FormFile

from services.errors import InvalidInput
from services.gateway import schemas as out
from services.gateway import show
from services.gateway.deps import Clean, Parts, PartsDep, TenantDep
from services.gateway.idempotent import Key
from services.gateway.problems import responses
from services.gateway.sources import LISTED_SYMBOLS, add_shared_routes, start_reading, take_file
from services.library import sources

router = APIRouter(prefix="/repositories", tags=["repositories"])

BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "contentMediaType": "application/octet-stream"},
                        "previous": {"type": "string", "description": "What this is a newer version of"},
                    },
                }
            },
            "application/json": {
                "schema": out.RepositoryByUrl.model_json_schema(),
                "example": {"url": "https://github.com/psf/requests", "revision": "v2.32.0"},
            },
        },
    }
}


@router.post(
    "",
    operation_id="create_repository",
    status_code=202,
    response_model=out.SourceOut,
    responses=responses(404, 409, 413, 422),
    openapi_extra=BODY,
)
async def create_repository(
    request: Request, here: PartsDep, tenant: TenantDep, idempotency_key: Key = None
) -> Response:
    """Takes a zip or tar.gz (multipart `file`), or clones an https URL (JSON), and starts to read it."""
    if "json" in request.headers.get("content-type", ""):
        wanted = _by_url(await request.body(), here)
        return await run_in_threadpool(_from_url, here, tenant, idempotency_key, wanted)
    async with request.form(max_files=1, max_fields=8) as form:
        file = form.get("file")
        if not isinstance(file, FormFile):
            missing = [{"pointer": "/file", "detail": "is missing"}]
            raise InvalidInput("Send a file, or JSON with a url.", errors=missing)
        upload = UploadFile(file.file, size=file.size, filename=file.filename, headers=file.headers)
        previous = _plain(form.get("previous"))
        return await run_in_threadpool(take_file, here, tenant, idempotency_key, "repository", upload, previous)


def _plain(field: Any) -> str | None:
    if isinstance(field, FormFile) or (field and "\x00" in field):
        raise InvalidInput("previous is not an id.", errors=[{"pointer": "/previous", "detail": "is not an id"}])
    return field or None


@router.post(
    "/{source_id}/refresh",
    operation_id="refresh_repository",
    status_code=202,
    response_model=out.SourceOut,
    responses=responses(404, 409, 422),
)
def refresh_repository(here: PartsDep, tenant: TenantDep, source_id: Clean, idempotency_key: Key = None) -> Response:
    """Fetches the newest commit of the same branch as a new repository; only what changed is read."""
    with here.database.read() as db:
        old = sources.ready(db, tenant, source_id, "repository")
    if not old.url:
        detail = "was uploaded as an archive"
        raise InvalidInput(f"{old.title} {detail}: upload its new version.", code="no_url", errors=[{"detail": detail}])
    wanted = out.RepositoryByUrl(url=old.url, revision=old.ref, previous=old.id)
    return _from_url(here, tenant, idempotency_key, _allowed(wanted, here))


def _by_url(body: bytes, here: Parts) -> out.RepositoryByUrl:
    try:
        wanted = out.RepositoryByUrl.model_validate_json(body)
    except ValidationError as error:
        found = [{"pointer": "/" + "/".join(map(str, e["loc"])), "detail": e["msg"]} for e in error.errors()]
        raise InvalidInput(found[0]["detail"], errors=found) from None
    return _allowed(wanted, here)


def _allowed(wanted: out.RepositoryByUrl, here: Parts) -> out.RepositoryByUrl:
    parsed = urlsplit(wanted.url)
    if parsed.username or parsed.password or (parsed.hostname or "").lower() not in here.settings.allowed_git_hosts():
        raise InvalidInput(
            f"Repositories are cloned from {', '.join(sorted(here.settings.allowed_git_hosts()))} only; "
            "upload an archive instead.",
            code="git_host_not_allowed",
            errors=[{"pointer": "/url", "detail": "host not allowed"}],
        )
    return wanted


def _from_url(here: Parts, tenant: str, key: str | None, wanted: out.RepositoryByUrl) -> Response:
    title = urlsplit(wanted.url).path.strip("/").removesuffix(".git") or wanted.url
    what = (wanted.url, wanted.revision or "", wanted.previous or "")
    fields = {**wanted.model_dump(), "ref": wanted.revision}
    return start_reading(here, tenant, key, "repository", title, fields, what)


@router.get("/{source_id}/files", operation_id="list_repository_files", responses=responses(404))
def list_files(here: PartsDep, tenant: TenantDep, source_id: Clean) -> out.Listed[out.FileOut]:
    with here.database.read() as db:
        files = sources.get(db, tenant, source_id, "repository").files
    return out.Listed(data=sorted((out.FileOut.model_validate(entry) for entry in files), key=lambda file: file.path))


@router.get("/{source_id}/files/{path:path}", operation_id="get_repository_file", responses=responses(404))
def get_file(here: PartsDep, tenant: TenantDep, source_id: Clean, path: Clean) -> out.FileText:
    with here.database.read() as db:
        sources.get(db, tenant, source_id, "repository")
        return out.FileText.model_validate(sources.file(db, tenant, source_id, path))


@router.get("/{source_id}/symbols", operation_id="search_repository_symbols", responses=responses(404))
def get_symbols(
    here: PartsDep,
    tenant: TenantDep,
    source_id: Clean,
    q: Annotated[Clean | None, Query(max_length=200, description="A part of the name")] = None,
    limit: Annotated[int, Query(ge=1, le=LISTED_SYMBOLS)] = 100,
) -> out.Listed[out.SymbolOut]:
    """Definitions, exact names first."""
    with here.database.read() as db:
        sources.get(db, tenant, source_id, "repository")
        rows = sources.symbols(db, tenant, source_id, q, limit)
    return out.Listed(data=[show.symbol(row) for row in rows])


add_shared_routes(router, "repository")
