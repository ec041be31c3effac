#!/opt/venv/bin/python
"""Health checks of the containers: `shiori-health http PATH`, `grpc`, `worker`. Status 0 when well."""

import os
import socket
import sys
import urllib.request


def http(path: str) -> None:
    port = os.environ.get("SHIORI_PORT", "8000")
    urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).read()


def grpc() -> None:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    port = os.environ["SHIORI_ENGINE_ADDRESS"].rpartition(":")[2]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        raise SystemExit(f"engine: {reply.status}")


def worker() -> None:
    from services.jobs import celery_app
    from services.settings import Settings

    host = socket.gethostname()
    answers = celery_app(Settings()).control.ping(timeout=3)
    if not any(name.endswith(f"@{host}") for answer in answers for name in answer):
        raise SystemExit("the worker does not answer")


if __name__ == "__main__":
    {"http": http, "grpc": grpc, "worker": worker}[sys.argv[1]](*sys.argv[2:])
