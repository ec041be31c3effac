"""POSTs that make something: once per Idempotency-Key, answered the same way every time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Header
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.orm import Session

from services.gateway import work
from services.gateway.deps import Clean, Parts
from services.library import idempotency
from services.library.tables import Job

Key = Annotated[
    Clean | None,
    Header(alias="Idempotency-Key", max_length=200, description="Sent again, the first answer comes again"),
]


@dataclass
class Made:
    """What a POST made, and the job that goes on with it."""

    status: int
    body: BaseModel
    location: str
    job: Job | None = None


def once(here: Parts, tenant: str, key: str | None, request_hash: str, make: Callable[[Session], Made]) -> JSONResponse:
    if key and (stored := idempotency.begin(here.database, tenant, key, request_hash)):
        return _reply(stored.status, stored.body, stored.location, {"Idempotency-Replayed": "true"})
    try:
        with here.database.write() as db:
            made = make(db)
            body = made.body.model_dump(mode="json")
            if key:
                idempotency.complete(db, tenant, key, made.status, body, made.location)
    except BaseException:
        if key:
            idempotency.abandon(here.database, tenant, key)
        raise
    if made.job:
        work.send(here, made.job)
    return _reply(made.status, body, made.location, {"Retry-After": "2"} if made.status == 202 else {})


def _reply(status: int, body: dict[str, Any], location: str | None, headers: dict[str, str]) -> JSONResponse:
    return JSONResponse(body, status, headers={**headers, **({"Location": location} if location else {})})
