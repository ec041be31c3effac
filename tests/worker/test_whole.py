"""Gateway, worker and the real engine with a tiny random model, each in its own process; one journey, and faults."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.inference.client import InferenceClient
from services.settings import Settings
from tests.conftest import free_port
from tests.inference.conftest import model_dir  # noqa: F401  a fixture

BOOK = "\n\n".join(
    f"CHAPTER {n}\n\nIn chapter {n} Osric Vane lit the lamp {n} times. The sea was calm." for n in range(1, 9)
)


class Whole:
    """The processes and a client of the gateway."""

    def __init__(self, settings: Settings, model: Path, **more: str) -> None:
        port, self.engine_address = free_port(), f"127.0.0.1:{free_port()}"
        self.environment = {
            **os.environ,
            "SHIORI_DATA_DIR": str(settings.data_dir),
            "SHIORI_DATABASE_URL": settings.database_url,
            "SHIORI_REDIS_URL": settings.redis_url,
            "SHIORI_ENGINE_ADDRESS": self.engine_address,
            "SHIORI_MODEL_DIR": str(model),
            "SHIORI_ENGINE_TOKENS": "32768",
            "SHIORI_ENGINE_THREADS": "1",
            "SHIORI_PORT": str(port),
            "SHIORI_HEARTBEAT_SECONDS": "0.5",
            "SHIORI_WORKER_LOST_SECONDS": "2",
            "SHIORI_METRICS_ADDRESS": "",
            **more,
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        self.engine = self.run("services.inference")
        self.gateway = self.run("services.gateway")
        self.worker = self.run("services.worker", "-c", "1")
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)

    def run(self, module: str, *arguments: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", module, *arguments]
        self.processes.append(subprocess.Popen(command, env=self.environment, start_new_session=True))
        return self.processes[-1]

    def kill(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self.http.get("/readyz").status_code == 200
        return False

    def ended(self, job_id: str) -> dict[str, Any]:
        for _ in range(4):
            job = self.http.get(f"/v1/jobs/{job_id}", params={"wait": 20}).json()
            if job["status"] in ("succeeded", "failed", "cancelled"):
                break
        return dict(job)

    def upload(self, text: str) -> dict[str, Any]:
        return dict(self.http.post("/v1/documents", files={"file": ("book.txt", text.encode())}).json())

    def ask(self, session_id: str, question: str) -> httpx.Response:
        return self.http.post(f"/v1/sessions/{session_id}/messages", json={"content": question})


@pytest.fixture
def whole(settings: Settings, model_dir: Path) -> Iterator[Whole]:  # noqa: F811
    made = Whole(settings, model_dir)
    until(made.ready)
    yield made
    made.kill()


def until(test: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def test_a_book_from_upload_to_a_fork_with_the_engine_killed_on_the_way(whole: Whole) -> None:
    http, book = whole.http, whole.upload(BOOK)
    assert whole.ended(book["job_id"])["status"] == "succeeded"
    book = http.get(f"/v1/documents/{book['id']}").json()
    assert book["status"] == "ready" and book["tokens"] > 100
    assert http.get("/v1/model").json()["fingerprint"]

    session = http.post("/v1/sessions", json={"source_ids": [book["id"]]}).json()
    first = whole.ask(session["id"], "Who lit the lamp in chapter 3?")
    assert first.status_code == 200, first.text
    assert first.json()["origin"] == "read" and first.json()["usage"]["resumed_tokens"] >= book["tokens"]

    whole.engine.kill()
    reply: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: reply.append(whole.ask(session["id"], "Who lit the lamp in chapter 4?")))
    asking.start()
    time.sleep(1.5)
    whole.run("services.inference")
    asking.join(60)
    assert reply and reply[0].status_code == 200, reply and reply[0].text
    assert reply[0].json()["usage"]["resumed_tokens"] > book["tokens"]

    fork = http.post(f"/v1/sessions/{session['id']}/fork", json={"bookmark": first.json()["id"]}).json()
    assert whole.ask(fork["id"], "Who lit the lamp in chapter 5?").status_code == 200
    assert [len(http.get(f"/v1/sessions/{s}/messages").json()["data"]) for s in (session["id"], fork["id"])] == [2, 2]

    engine = InferenceClient(whole.engine_address)
    names = {one.session_id for one in engine.list_sessions()}
    assert {f"src-{book['id']}", session["id"], fork["id"]} <= names
    assert http.delete(f"/v1/documents/{book['id']}").status_code == 204
    until(lambda: not {one.session_id for one in engine.list_sessions()} & names, 30)
