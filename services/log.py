"""Structured logs: an event name and key-values; console for people, JSON for machines.

The request id is bound at the edge with `bind(request_id=...)` and travels through jobs and RPC metadata.
"""

import logging
import sys
import uuid
from collections.abc import MutableMapping
from typing import Any

import structlog

from services.settings import Settings

SECRETS = frozenset({"api_key", "authorization", "x-api-key", "password", "secret", "cookie", "key"})

bind = structlog.contextvars.bind_contextvars
unbind = structlog.contextvars.unbind_contextvars
bound = structlog.contextvars.bound_contextvars


def _redact(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in SECRETS & event.keys():
        event[name] = "***"
    return event


def configure(service: str, settings: Settings | None = None) -> None:
    """Once per process. Libraries that use the standard logging come out in the same shape."""
    settings = settings or Settings()
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_last(service, settings.log_format))
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for chatty in ("httpx", "httpcore", "kombu", "amqp", "multipart", "python_multipart"):
        logging.getLogger(chatty).setLevel("WARNING")


def _last(service: str, log_format: str) -> list[Any]:
    def name_service(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("service", service)
        return event

    renderers: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if log_format == "json"
        else [_console()]
    )
    return [name_service, structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers]


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    return structlog.get_logger(name)


def request_id() -> str:
    """The id of the request being served, or a new one."""
    bound_id = structlog.contextvars.get_contextvars().get("request_id")
    return str(bound_id) if bound_id else new_request_id()


def new_request_id() -> str:
    return "req_" + uuid.uuid4().hex


def _console() -> structlog.dev.ConsoleRenderer:
    """Plain tracebacks: the rich ones print every local variable, which is slow and tells secrets."""
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
