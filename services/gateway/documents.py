"""/v1/documents: books, papers, pages."""

from typing import Annotated

from fastapi import APIRouter, File, Form, Response, UploadFile

from services.gateway import schemas as out
from services.gateway.deps import Clean, PartsDep, TenantDep
from services.gateway.idempotent import Key
from services.gateway.problems import responses
from services.gateway.sources import add_shared_routes, take_file

router = APIRouter(prefix="/documents", tags=["documents"])


@router.post(
    "",
    operation_id="create_document",
    status_code=202,
    response_model=out.SourceOut,
    responses=responses(404, 409, 413, 422),
)
def create_document(
    here: PartsDep,
    tenant: TenantDep,
    file: Annotated[UploadFile, File()],
    previous: Annotated[Clean | None, Form(description="The document that this is a newer version of")] = None,
    idempotency_key: Key = None,
) -> Response:
    """Takes a file in and starts to read it. `Location` is the job; the body is the document."""
    return take_file(here, tenant, idempotency_key, "document", file, previous)


add_shared_routes(router, "document")
