"""The engine's process: a gRPC server that is there at once, SERVING when the model is loaded, and leaves politely."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.inference.channel import SERVER_KEEPALIVE_OPTIONS
from services.inference.operator import Operator
from services.inference.pb import inference_pb2, inference_pb2_grpc
from services.inference.service import load_service
from services.inference.servicer import Servicer
from services.inference.settings import InferenceSettings
from services.vault.metrics import Metrics

log = structlog.get_logger(__name__)

_NAME = inference_pb2.DESCRIPTOR.services_by_name["Inference"].full_name
# A thread waits for each running call; the engine admits far fewer. Two replicas must not share one port by accident.
_THREADS = 48
_OPTIONS: list[tuple[str, Any]] = [*SERVER_KEEPALIVE_OPTIONS, ("grpc.so_reuseport", 0)]
_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class InferenceServer:
    def __init__(self, settings: InferenceSettings) -> None:
        self.settings = settings
        self.servicer = Servicer()
        self.metrics = Metrics()
        self.failed = False
        self._health = health.HealthServicer()
        self._leaving = threading.Event()
        self._close_metrics: Callable[[], None] = lambda: None
        self._grpc = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix="rpc"), options=_OPTIONS)
        inference_pb2_grpc.add_InferenceServicer_to_server(self.servicer, self._grpc)
        inference_pb2_grpc.add_VaultServicer_to_server(Operator(self.servicer), self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        if settings.reflection:
            reflection.enable_server_reflection([_NAME, reflection.SERVICE_NAME], self._grpc)
        self._say(_NOT_SERVING)
        self.port = self._grpc.add_insecure_port(settings.address)

    def start(self) -> InferenceServer:
        self.listen()
        self.load()
        return self

    def listen(self) -> None:
        """Answers UNAVAILABLE and NOT_SERVING from here on."""
        self._grpc.start()
        log.info("listening", address=self.settings.address, port=self.port)

    def load(self) -> None:
        """SERVING from here on."""
        self.servicer.loaded = load_service(self.settings, self.metrics, on_failure=self._engine_died)
        try:
            self._close_metrics = self.metrics.serve(self.settings.metrics_address)
        except OSError as error:
            log.warning("no_metrics", why=str(error))  # no reason not to answer questions
        self._say(_SERVING)

    def wait(self) -> None:
        self._leaving.wait()

    def leave(self) -> None:
        """From a signal handler: only sets a flag."""
        self._leaving.set()

    def stop(self, grace_s: float | None = None) -> None:
        """NOT_SERVING first, then no new calls, then the running ones end or are cancelled, then the engine stops."""
        grace_s = self.settings.grace_s if grace_s is None else grace_s
        self._health.enter_graceful_shutdown()
        self.servicer.draining = True
        self._leaving.set()
        self._grpc.stop(grace_s).wait()
        if self.servicer.loaded:
            self.servicer.loaded.close()
        self._close_metrics()
        log.info("stopped", failed=self.failed)

    def _say(self, status: Any) -> None:
        for name in ("", _NAME):
            self._health.set(name, status)

    def _engine_died(self) -> None:
        self.failed = True
        self._say(_NOT_SERVING)
        self._leaving.set()


def build_server(settings: InferenceSettings) -> tuple[InferenceServer, int]:
    """The server, not started, and its port."""
    server = InferenceServer(settings)
    return server, server.port
