"""The line between the engine and whoever calls it: kept alive, calls repeated, errors as the services' own."""

import json
from typing import Any, NoReturn

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from services import errors

# A long prefill step sends nothing, and proxies drop silent connections, so the client pings. The server must allow
# pings as frequent as these, or it answers ENHANCE_YOUR_CALM and cuts the line: server.py takes its own options from
# here, so that the two cannot part.
KEEPALIVE_MS = 30_000
CLIENT_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
SERVER_KEEPALIVE_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.keepalive_time_ms", 4 * KEEPALIVE_MS),  # also finds clients that vanished without a FIN
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
    ("grpc.http2.max_ping_strikes", 0),
]

_UNARY = (
    *("Describe", "CountTokens", "OpenSession", "DescribeSession", "ListSessions"),
    *("DeleteSession", "ForkSession", "RewindSession", "BookmarkSession", "Score"),
)
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "shiori.inference.v1.Inference", "method": method} for method in _UNARY],
                "retryPolicy": {  # an engine that restarts is away for a few seconds; all these calls are idempotent
                    "maxAttempts": 5,
                    "initialBackoff": "0.3s",
                    "maxBackoff": "3s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)


def channel_to(address: str) -> grpc.Channel:
    options = [*CLIENT_OPTIONS, ("grpc.service_config", _SERVICE_CONFIG), ("grpc.enable_retries", 1)]
    return grpc.insecure_channel(address, options=options)


def raised(error: Any) -> NoReturn:
    """The services' own error; `extra` holds the engine's reason and numbers, `retry_after` when to come again."""
    extra, retry_after = _rich_details(error)
    reason = extra.get("reason", "").lower()
    kind = errors.from_grpc(error.code().name, error.details() or "", retry_after, reason)
    if isinstance(kind, errors.VaultFull):
        kind.code = reason
    if extra.get("reason") == "SESSION_BUSY":
        kind = errors.Conflict(kind.detail, code="session_busy")
    kind.extra.update(extra)
    raise kind from error


def _rich_details(error: Any) -> tuple[dict[str, str], float | None]:
    extra: dict[str, str] = {}
    retry_after = None
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            extra.update(info.metadata, reason=info.reason)
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return extra, retry_after
