"""The gateway: HTTP in, JSON and server-sent events out."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

import redis
import redis.asyncio as async_redis
from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi

from services import log
from services.gateway import (
    documents,
    health,
    jobs,
    messages,
    middleware,
    model,
    problems,
    repositories,
    search,
    sessions,
    usage,
    web,
)
from services.gateway.deps import Parts
from services.inference.client import InferenceClient
from services.library.db import Database
from services.settings import Settings

ROUTERS = (documents, repositories, sessions, messages, search, jobs, model, usage)


def create_app(settings: Settings | None = None, model_of: Callable[[str], Any] | None = None) -> FastAPI:
    """`model_of(tenant)` gives a client of the engine; tests hand in a twin. Without settings: from the environment."""
    if settings is None:
        settings = Settings()
        log.configure("gateway", settings)
    app = FastAPI(
        title="Shiori",
        version="1",
        summary="Reads a book or a repository once, answers from the saved reading ever after.",
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan(settings, model_of or _clients(settings)),
        responses=problems.responses(401, 422),
    )
    problems.install(app)
    middleware.install(app, settings.max_upload_bytes)
    v1 = APIRouter(prefix="/v1")
    for module in ROUTERS:
        v1.include_router(module.router)
    app.include_router(v1)
    app.include_router(health.router)
    app.router.default = web.fallback(settings.web_dir)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _clients(settings: Settings) -> Callable[[str], InferenceClient]:
    @lru_cache(maxsize=256)
    def client(tenant: str) -> InferenceClient:
        return InferenceClient(settings.engine_address, tenant, timeout=10)

    return client


def _lifespan(settings: Settings, model_of: Callable[[str], Any]) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.parts = Parts(
            settings=settings,
            database=Database(settings.database_url),
            redis=redis.Redis.from_url(settings.redis_url, socket_connect_timeout=2, socket_timeout=5),
            stream=async_redis.Redis.from_url(settings.redis_url, socket_connect_timeout=2, socket_timeout=10),
            model=model_of,
        )
        yield
        await app.state.parts.stream.aclose()
        app.state.parts.redis.close()
        app.state.parts.database.dispose()

    return lifespan


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        schemas = schema["components"]["schemas"]
        schemas["Problem"] = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        app.openapi_schema = schema
    return app.openapi_schema
