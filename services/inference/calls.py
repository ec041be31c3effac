"""What every RPC does around its work: whose it is, when to stop, what its errors look like, one line in the log."""

from __future__ import annotations

import functools
import inspect
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc
import redis
import structlog
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from engine import ProvenanceError
from services import errors
from services.inference.driver import Stop
from services.vault.keys import KeyProblem
from services.vault.sealing import Damaged

log = structlog.get_logger(__name__)

DOMAIN = "shiori.inference.v1"
_TENANT = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SESSION = re.compile(r"[A-Za-z0-9_.:@-]{1,128}")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


class Call:
    """One RPC on its way."""

    def __init__(self, method: str, context: Any) -> None:
        metadata = dict(context.invocation_metadata())
        self.method = method
        self.context = context
        self.tenant = str(metadata.get("x-shiori-tenant", "default"))
        self.request_id = str(metadata.get("x-request-id", ""))[:100]
        self.started = time.monotonic()
        self.stop = Stop()
        self.facts: dict[str, Any] = {}  # for the log line
        if not context.add_callback(self.stop.set):  # also called when the deadline passes
            self.stop.set()

    @property
    def ms(self) -> float:
        return (time.monotonic() - self.started) * 1000


def rpc(method: Callable[..., Any]) -> Any:
    """Turns a method of (self, request, call) into what gRPC expects, unary or streaming."""

    @functools.wraps(method)
    def unary(self: Any, request: Any, context: Any) -> Any:
        with _around(Call(method.__name__, context)) as call:
            return method(self, request, call)

    @functools.wraps(method)
    def streaming(self: Any, request: Any, context: Any) -> Iterator[Any]:
        with _around(Call(method.__name__, context)) as call:
            yield from method(self, request, call)

    return streaming if inspect.isgeneratorfunction(method) else unary


@contextmanager
def _around(call: Call) -> Iterator[Call]:
    with structlog.contextvars.bound_contextvars(request_id=call.request_id, tenant=call.tenant):
        code = "OK"
        try:
            check(_TENANT, call.tenant, "tenant")
            yield call
        except GeneratorExit:
            code = "CANCELLED"
            raise
        except Exception as error:
            told = _as_ours(error)
            code = told.grpc_code
            _abort(call.context, told)
        finally:
            log.info("rpc", method=call.method, code=code, ms=round(call.ms, 1), **call.facts)


def check(pattern: re.Pattern[str], value: str, what: str) -> str:
    if not pattern.fullmatch(value):
        raise errors.InvalidInput(f"{what} {value[:40]!r} does not match {pattern.pattern}", field=what)
    return value


def session_id(value: str) -> str:
    return check(_SESSION, value, "session_id")


def bookmark_name(value: str) -> str:
    return check(_NAME, value, "bookmark") if value else ""


def _as_ours(error: Exception) -> errors.ShioriError:
    if isinstance(error, errors.ShioriError):
        if error.status == 500:
            log.error("failed", why=error.detail)
        return error
    if isinstance(error, Damaged):
        log.error("damaged", why=str(error))
        return errors.DataLoss(f"stored data is damaged: {error}")
    if isinstance(error, (KeyProblem, ProvenanceError)):
        log.error("refused", why=str(error))
        return errors.ShioriError(str(error), code="key_problem" if isinstance(error, KeyProblem) else "provenance")
    if _out_of_memory(error):
        return errors.VaultFull("Redis has no memory left; what is stored is whole", retry_after=30)
    if isinstance(error, redis.exceptions.ResponseError) and "MISCONF" in str(error):  # also from within a script
        return errors.Unavailable("Redis cannot write to its disk; what is stored is whole", code="vault_readonly")
    if isinstance(error, (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)):
        return errors.Unavailable("the vault is away", code="vault_unavailable", retry_after=1)
    log.exception("bug")
    return errors.ShioriError("the inference service failed; its log says why")


def _out_of_memory(error: Exception) -> bool:
    """Said by a command, or from within a script."""
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return True
    return isinstance(error, redis.exceptions.ResponseError) and "OOM command not allowed" in str(error)


def _abort(context: Any, error: errors.ShioriError) -> NoReturn:
    """Status with ErrorInfo, and RetryInfo where trying again helps."""
    info = error_details_pb2.ErrorInfo(
        reason=error.code.upper(),
        domain=DOMAIN,
        metadata={name: str(value) for name, value in error.extra.items()},
    )
    details = [_packed(info)]
    if error.retry_after is not None:
        delay = duration_pb2.Duration(nanos=int(error.retry_after % 1 * 1e9), seconds=int(error.retry_after))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    code = getattr(grpc.StatusCode, error.grpc_code)
    context.abort_with_status(
        rpc_status.to_status(status_pb2.Status(code=code.value[0], message=error.detail, details=details))
    )
    raise AssertionError("abort returned")


def _packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
