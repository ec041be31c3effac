"""Real worker processes: killed, cancelled, delivered twice."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services import events, jobs
from services.jobs import Kinds, Queues
from services.library import jobs as rows
from services.library import sources
from tests.conftest import free_port, start_redis
from tests.worker.conftest import BOOK, System

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(system: System) -> Iterator[Start]:
    """A worker in a process group of its own, so that a kill takes all of it."""
    system.settings.heartbeat_seconds, system.settings.worker_lost_seconds = 0.5, 2
    started: list[subprocess.Popen[bytes]] = []

    def make(delay: float = 0.0, queues: str = "interactive,ingest,summarise") -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.worker.process", str(system.twin.folder), str(delay), queues]
        started.append(subprocess.Popen(command, env=environment(system), start_new_session=True))
        return started[-1]

    yield make
    for process in started:
        kill(process)


def environment(system: System) -> dict[str, str]:
    return {
        **os.environ,
        "SHIORI_DATA_DIR": str(system.settings.data_dir),
        "SHIORI_DATABASE_URL": system.settings.database_url,
        "SHIORI_REDIS_URL": system.settings.redis_url,
        "SHIORI_HEARTBEAT_SECONDS": "0.5",
        "SHIORI_WORKER_LOST_SECONDS": "2",
    }


def kill(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def until(test: Callable[[], Any], seconds: float = 40) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := test():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def send(system: System, source_id: str, job_id: str) -> None:
    jobs.enqueue(system.settings, Kinds.ingest, source_id, job_id)


def segments(system: System, source_id: str) -> int:
    with system.database.write() as db:
        return sources.reading(db, "default", source_id).segments_done


def test_a_worker_killed_while_reading_loses_at_most_one_segment(system: System, start: Start) -> None:
    source_id, job_id = system.upload()
    first = start(delay=0.15)
    send(system, source_id, job_id)
    done = until(lambda: (n := segments(system, source_id)) >= 2 and n)
    kill(first)
    heard = events.read(system.tools.redis, job_id)[-1].id
    start(delay=0.01)
    until(lambda: system.job(job_id).status == "succeeded")
    assert system.job(job_id).attempt == 2
    after = [event.data for event in events.read(system.tools.redis, job_id, heard)]
    assert min(data["segments_done"] for data in after if "segments_total" in data) >= done
    said = (
        "".join(system.twin.named(sources.engine_session(source_id)).segments) if described(system, source_id) else ""
    )
    assert said == f"<|doc|>{BOOK}"


def described(system: System, source_id: str) -> Any:
    return system.twin.describe_session(sources.engine_session(source_id))


def test_a_real_worker_reads_summarises_and_says_that_it_listens(system: System, start: Start) -> None:
    start()
    until(lambda: all(jobs.consumers(system.tools.redis, queue, time.time()) for queue in Queues))
    source_id, job_id = system.upload()
    for _ in range(3):  # three messages, one reading
        send(system, source_id, job_id)
    until(lambda: system.job(job_id).status == "succeeded")

    def summarised() -> bool:
        with system.database.read() as db:
            job = rows.latest(db, "default", source_id, Kinds.summarise)
        return job is not None and job.status == "succeeded"

    until(summarised)
    assert system.job(job_id).attempt == 1


def test_a_job_whose_message_was_lost_is_sent_again(system: System, start: Start) -> None:
    _, job_id = system.upload()
    start()
    until(lambda: system.job(job_id).status == "succeeded")


def test_a_job_that_kills_its_workers_ends_as_worker_lost(system: System, start: Start) -> None:
    system.settings.job_attempts = 1
    source_id, job_id = system.upload()
    first = start(delay=0.3)
    send(system, source_id, job_id)
    until(lambda: system.job(job_id).status == "running")
    kill(first)
    time.sleep(2.1)
    from services.worker.sweep import sweep

    sweep(system.tools)
    job = system.job(job_id)
    assert (job.status, job.error and job.error["code"]) == ("failed", "worker_lost")
    assert system.source(source_id).status == "failed"
    assert events.read(system.tools.redis, job_id)[-1].event == "done"


def test_a_running_job_is_cancelled_within_seconds(system: System, start: Start) -> None:
    source_id, job_id = system.upload()
    start(delay=1.0)
    send(system, source_id, job_id)
    until(lambda: segments(system, source_id) >= 0 and system.job(job_id).phase == "reading")
    jobs.request_cancel(system.tools.redis, job_id)
    cancelled = time.monotonic()
    until(lambda: system.job(job_id).status == "cancelled", 5)
    assert time.monotonic() - cancelled < 3


def test_sigterm_ends_a_worker_and_its_job_goes_on_elsewhere(system: System, start: Start) -> None:
    source_id, job_id = system.upload()
    first = start(delay=0.3)
    send(system, source_id, job_id)
    until(lambda: system.job(job_id).phase == "reading")
    first.send_signal(signal.SIGTERM)
    assert first.wait(8) == 0
    assert (system.job(job_id).status, system.job(job_id).losses) == ("queued", 0)
    start(delay=0.01)
    until(lambda: system.job(job_id).status == "succeeded")


def test_a_redis_that_restarts_empty_loses_no_job(system: System, start: Start, tmp_path: Path) -> None:
    port = free_port()
    own = start_redis(tmp_path, port)
    system.settings.redis_url = f"redis://127.0.0.1:{port}/0"
    running, running_job = system.upload()
    waiting, waiting_job = system.upload()
    start(delay=0.15)
    for source_id, job_id in ((running, running_job), (waiting, waiting_job)):
        send(system, source_id, job_id)
    until(lambda: system.job(running_job).phase == "reading")
    own.kill()
    own.wait()
    time.sleep(2)
    own = start_redis(tmp_path, port)
    try:
        until(lambda: system.job(running_job).status == "succeeded", 60)
        assert system.job(running_job).attempt == 1
        until(lambda: system.job(waiting_job).status == "succeeded", 60)
    finally:
        own.kill()
