"""RFC 9457 bodies for everything that goes wrong, in one place."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from services import errors, log

logger = log.get_logger(__name__)

CODES = {400: "bad_request", 401: "unauthenticated", 403: "forbidden", 404: "not_found", 405: "method_not_allowed"}
CODES |= {406: "not_acceptable", 413: "too_large", 415: "unsupported_media_type"}
TITLES = {400: "Bad request", 403: "Forbidden", 404: "Not found", 405: "Method not allowed", 413: "Too large"}


class Problem(BaseModel):
    """RFC 9457 problem details; `code` is stable, sentences may change."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    code: str
    request_id: str | None = None
    retryable: bool = False
    errors: list[dict[str, Any]] = []


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the problems a route may answer with."""
    content = {errors.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": TITLES.get(status, "Problem"), "content": content} for status in statuses}


def install(app: FastAPI) -> None:
    app.add_exception_handler(errors.ShioriError, _ours)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)


def response(error: errors.ShioriError, path: str, request_id: str | None) -> JSONResponse:
    headers = (
        {"Retry-After": str(max(1, round(error.retry_after or 2)))} if error.status == 503 or error.retry_after else {}
    )
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = error.problem(path, request_id)
    return JSONResponse(body, error.status, headers=headers, media_type=errors.MEDIA_TYPE)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.ShioriError)
    if error.status >= 500:
        logger.warning("request_failed", code=error.code, detail=error.detail)
    return response(error, request.url.path, request.state.request_id)


async def _validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = [{"pointer": _pointer(item["loc"]), "detail": item["msg"]} for item in error.errors()]
    detail = "; ".join(f"{item['pointer']}: {item['detail']}" for item in found[:3])
    return response(errors.InvalidInput(detail, errors=found), request.url.path, request.state.request_id)


def _pointer(location: tuple[Any, ...]) -> str:
    """("body", "content") -> "/content"; parameters keep where they stand: "query/limit"."""
    where, *rest = location or ("body",)
    tail = "".join(f"/{part}" for part in rest)
    return tail or "/" if where == "body" else f"{where}{tail}"


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    ours = errors.ShioriError(str(error.detail), code=CODES.get(error.status_code, "http_error"))
    ours.status, ours.title = error.status_code, TITLES.get(error.status_code, str(error.detail))
    made = response(ours, request.url.path, request.state.request_id)
    made.headers.update(error.headers or {})
    return made
