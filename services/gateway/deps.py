"""What routes ask for: who calls, the database, Redis, the engine."""

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import redis
import redis.asyncio as async_redis
from fastapi import Depends, Query, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from pydantic import AfterValidator

from services.errors import Unauthenticated
from services.library.db import Database
from services.settings import Settings

bearer = HTTPBearer(auto_error=False, description="An API key")
key_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="An API key")


@dataclass
class Parts:
    """The gateway's long-lived things, made by the lifespan, closed by it."""

    settings: Settings
    database: Database
    redis: redis.Redis
    stream: async_redis.Redis
    model: Callable[[str], Any]
    """tenant -> a client of the engine"""


def parts(request: Request) -> Parts:
    return request.app.state.parts


PartsDep = Annotated[Parts, Depends(parts)]


def tenant(
    here: PartsDep,
    authorization: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)] = None,
    api_key: Annotated[str | None, Security(key_header)] = None,
) -> str:
    """The one place that looks at keys, whatever carried them."""
    keys = here.settings.api_keys()
    if not keys:
        return "default"
    return _tenant_of(authorization.credentials if authorization else api_key, keys)


def _tenant_of(given: str | None, keys: dict[str, str]) -> str:
    """Compares with every key in constant time, so that time tells nothing."""
    found = None
    for key, name in keys.items():
        if hmac.compare_digest(key.encode(), (given or "").encode("utf-8", "surrogateescape")):
            found = name
    if found is None:
        raise Unauthenticated("Send your key as `Authorization: Bearer …` or `X-API-Key`.")
    return found


def no_nul(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain the NUL character")
    return value


Clean = Annotated[str, AfterValidator(no_nul)]
TenantDep = Annotated[str, Depends(tenant)]
Limit = Annotated[int, Query(ge=1, le=200, description="How many at most")]
After = Annotated[Clean | None, Query(max_length=100, description="`next_cursor` of the page before")]
