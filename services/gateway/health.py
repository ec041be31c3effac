"""/livez says that the process is there; /readyz names what fails."""

import time
from collections.abc import Callable

import grpc
from fastapi import APIRouter, Response
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services import jobs
from services.gateway import schemas as out
from services.gateway.deps import Parts, PartsDep

router = APIRouter(tags=["health"])

ENGINE_SECONDS = 1.0


@router.get("/livez", operation_id="livez")
def livez() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz", operation_id="readyz", responses={503: {"model": out.Ready}})
def readyz(here: PartsDep, response: Response) -> out.Ready:
    """200 when everything works; otherwise 503 with every check and its reason."""
    library = [_check("database", _database, here), _check("redis", _redis, here), _check("blobs", _blobs, here)]
    asking = [_check("engine", _engine, here), *(_queue_check(here, queue) for queue in jobs.Queues)]
    works, answers = all(check.ok for check in library), all(check.ok for check in asking)
    response.status_code = 200 if works and answers else 503
    status = "ready" if works and answers else "degraded" if works else "unready"
    return out.Ready(status=status, checks=[*library, *asking])


def _check(name: str, test: Callable[[Parts], str], here: Parts) -> out.Check:
    try:
        return out.Check(name=name, ok=True, detail=test(here))
    except Exception as error:
        return out.Check(name=name, ok=False, detail=_reason(error))


def _reason(error: Exception) -> str:
    """Short, and without addresses or credentials: anybody may ask."""
    return str(error) if isinstance(error, RuntimeError) else f"unreachable ({type(error).__name__})"


def _queue_check(here: Parts, queue: jobs.Queues) -> out.Check:
    def listening(here: Parts) -> str:
        count = jobs.consumers(here.redis, queue, time.time())
        if not count:
            raise RuntimeError(f"no worker is listening: start `python -m services.worker --queues {queue.value}`")
        return f"{count} listening"

    return _check(f"queue:{queue.value}", listening, here)


def _database(here: Parts) -> str:
    here.database.check_revision()
    return f"revision {here.database.revision()}"


def _redis(here: Parts) -> str:
    here.redis.ping()
    return "answers"


def _blobs(here: Parts) -> str:
    here.settings.blob_dir.mkdir(parents=True, exist_ok=True)
    probe = here.settings.blob_dir / ".probe"
    probe.write_bytes(b"")
    probe.unlink(missing_ok=True)
    return "writable"


def _engine(here: Parts) -> str:
    with grpc.insecure_channel(here.settings.engine_address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=ENGINE_SECONDS)
        except grpc.RpcError as error:
            raise RuntimeError(f"does not answer ({error.code().name})") from None
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        raise RuntimeError(f"not serving ({health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)})")
    return "SERVING"
