#!/opt/venv/bin/python
"""Health checks of the containers: `shiori-health http PATH`, `grpc`, `worker`. Status 0 when well."""

import os
import socket
import sys
import time
import urllib.request

LATELY_SECONDS = 60


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
    """A worker says every few seconds which queues it listens to, under a name with its host in it."""
    import redis

    store, mark = redis.Redis.from_url(os.environ["SHIORI_REDIS_URL"]), f"-{socket.gethostname()}-"
    lately = time.time() - LATELY_SECONDS
    names = [name for key in store.scan_iter("shiori:consumers:*") for name in store.zrangebyscore(key, lately, "+inf")]
    if not any(mark in name.decode() for name in names):
        raise SystemExit("the worker has not been heard of lately")


if __name__ == "__main__":
    {"http": http, "grpc": grpc, "worker": worker}[sys.argv[1]](*sys.argv[2:])
