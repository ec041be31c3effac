"""Everything that can go wrong on purpose, as one tree; HTTP status and gRPC code side by side.

ShioriError                500 INTERNAL             ours to mend
├── InvalidInput           422 INVALID_ARGUMENT     the request cannot be understood
│   ├── UnsupportedFile    415 INVALID_ARGUMENT
│   ├── ContextLimit       422 OUT_OF_RANGE         more text than the model can hold
│   └── IngestFailed       422 INVALID_ARGUMENT     the file cannot be read; says what to do
├── Unauthenticated        401 UNAUTHENTICATED
├── NotFound               404 NOT_FOUND            also: another tenant's
├── TooLarge               413 INVALID_ARGUMENT
├── Conflict               409 ABORTED              somebody else was first
│   ├── HeadMoved          409 ABORTED              the session went on meanwhile
│   ├── AlreadyExists      409 ALREADY_EXISTS
│   ├── NotReady           409 FAILED_PRECONDITION  the source is still being read
│   └── StateIncompatible  409 FAILED_PRECONDITION  read by another model; read again
├── DataLoss               500 DATA_LOSS            a stored block fails its check
├── EngineFull             503 RESOURCE_EXHAUSTED   no slot or page free; retry
├── VaultFull              507 RESOURCE_EXHAUSTED   no room for readings, or the quota is used up
├── EngineUnavailable      503 UNAVAILABLE          starting, draining or gone; retry
├── Unavailable            503 UNAVAILABLE          another part (Redis, database, worker)
├── WorkerLost             500 ABORTED              the worker died too often on this job
├── Cancelled              499 CANCELLED            by the user
└── DeadlineExceeded       504 DEADLINE_EXCEEDED

Bodies are RFC 9457 problems. `code` is stable; sentences may change.
"""

from typing import Any

DOCS = "/problems/"  # relative to this server, which explains each code there
MEDIA_TYPE = "application/problem+json"


class ShioriError(Exception):
    """Something we did not foresee."""

    status = 500
    code = "internal"
    title = "Internal error"
    grpc_code = "INTERNAL"
    retryable = False

    def __init__(
        self,
        detail: str = "",
        *,
        code: str | None = None,
        errors: list[dict[str, Any]] | None = None,
        retry_after: float | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.code = code or type(self).code
        self.errors = errors or []
        self.retry_after = retry_after
        self.extra = extra

    def problem(self, instance: str | None = None, request_id: str | None = None) -> dict[str, Any]:
        """The RFC 9457 body of this error."""
        return {
            **self.extra,
            "type": DOCS + self.code,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
            "code": self.code,
            "request_id": request_id,
            "retryable": self.retryable,
            "errors": self.errors,
        }


class InvalidInput(ShioriError):
    """The request cannot be understood."""

    status, code, title, grpc_code = 422, "invalid_input", "Invalid input", "INVALID_ARGUMENT"


class UnsupportedFile(InvalidInput):
    """No reader for this kind of file."""

    status, code, title = 415, "unsupported_file", "Unsupported file"


class ContextLimit(InvalidInput):
    """More text than the model can hold at once."""

    code, title, grpc_code = "context_limit", "Context limit reached", "OUT_OF_RANGE"


class IngestFailed(InvalidInput):
    """The file cannot be read; the detail says what to do."""

    code, title = "ingest_failed", "The source could not be read"


class Unauthenticated(ShioriError):
    """No key, or a wrong one."""

    status, code, title, grpc_code = 401, "unauthenticated", "An API key is required", "UNAUTHENTICATED"


class NotFound(ShioriError):
    """No such thing, or not yours."""

    status, code, title, grpc_code = 404, "not_found", "Not found", "NOT_FOUND"


class TooLarge(ShioriError):
    """More bytes than this server takes."""

    status, code, title, grpc_code = 413, "too_large", "Too large", "INVALID_ARGUMENT"


class Conflict(ShioriError):
    """Somebody else was first."""

    status, code, title, grpc_code = 409, "conflict", "Conflict", "ABORTED"


class HeadMoved(Conflict):
    """The session went on meanwhile: read on from its new head, or fork."""

    code, title = "session_head_moved", "The session moved on"


class AlreadyExists(Conflict):
    """The name is taken."""

    code, title, grpc_code = "already_exists", "Already exists", "ALREADY_EXISTS"


class NotReady(Conflict):
    """The source is still being read."""

    code, title, grpc_code, retryable = "not_ready", "Not ready yet", "FAILED_PRECONDITION", True


class StateIncompatible(Conflict):
    """The reading was made by another model, tokenizer, dtype or kernel: read again."""

    code, title, grpc_code = "state_incompatible", "The reading belongs to another model", "FAILED_PRECONDITION"


class DataLoss(ShioriError):
    """A stored block fails its check."""

    code, title, grpc_code = "data_loss", "Stored data is damaged", "DATA_LOSS"


class EngineFull(ShioriError):
    """No slot or page is free in the engine."""

    status, code, title, grpc_code, retryable = 503, "engine_full", "The engine is full", "RESOURCE_EXHAUSTED", True


class VaultFull(ShioriError):
    """No room for another reading: `vault_full`, or the tenant's `quota_exceeded`. What is stored was not touched."""

    status, code, title, grpc_code, retryable = 507, "vault_full", "No room for readings", "RESOURCE_EXHAUSTED", True


class EngineUnavailable(ShioriError):
    """The engine is starting, draining or gone."""

    status, code, title, grpc_code, retryable = 503, "engine_unavailable", "The engine is away", "UNAVAILABLE", True


class Unavailable(ShioriError):
    """Another part of the system is away."""

    status, code, title, grpc_code, retryable = 503, "unavailable", "Temporarily unavailable", "UNAVAILABLE", True


class WorkerLost(ShioriError):
    """The worker died on this job as often as it may."""

    code, title, grpc_code, retryable = "worker_lost", "The worker was lost", "ABORTED", True


class Cancelled(ShioriError):
    """By the user."""

    status, code, title, grpc_code = 499, "cancelled", "Cancelled", "CANCELLED"


class DeadlineExceeded(ShioriError):
    """It took longer than allowed."""

    status, code, title, grpc_code, retryable = 504, "deadline_exceeded", "Took too long", "DEADLINE_EXCEEDED", True


_BY_GRPC: dict[str, type[ShioriError]] = {
    "INVALID_ARGUMENT": InvalidInput,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "ABORTED": HeadMoved,
    "FAILED_PRECONDITION": StateIncompatible,
    "DATA_LOSS": DataLoss,
    "RESOURCE_EXHAUSTED": EngineFull,
    "UNAVAILABLE": EngineUnavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": Cancelled,
    "OUT_OF_RANGE": ContextLimit,
}


_BY_REASON: dict[str, type[ShioriError]] = {"vault_full": VaultFull, "quota_exceeded": VaultFull}


def from_grpc(code: str, detail: str = "", retry_after: float | None = None, reason: str = "") -> ShioriError:
    """The error of our tree for a gRPC status name such as "NOT_FOUND" and a reason; unknown ones are internal."""
    kind = _BY_REASON.get(reason) or _BY_GRPC.get(code, ShioriError)
    return kind(detail, retry_after=retry_after)


def wrap(error: BaseException) -> ShioriError:
    """Any exception as one of ours. The detail of a foreign one stays in the log, never in a body."""
    return error if isinstance(error, ShioriError) else ShioriError("Something went wrong on our side.")
