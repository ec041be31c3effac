"""The whole of Shiori as `make run` starts it, in a folder and on ports of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.local import ports
from services.local.rest import Json, Rest

ROOT = Path(__file__).resolve().parents[2]
MODEL = Path(os.environ.get("SHIORI_TEST_MODEL_DIR", ROOT / "lab" / "model"))
START_SECONDS = 150
STOP_SECONDS = 60


class LiveSystem:
    """A supervisor as a real process. `stop` and `start` again keep the folder: what was read stays read."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.port = ports.any_free()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.run_file = data_dir / "run.json"
        self.process: subprocess.Popen[bytes] | None = None
        self.rest = Rest(self.base_url)

    def start(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with (self.data_dir / "supervisor.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.local", "run"],
                cwd=ROOT,
                env={**os.environ, **self._env()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._await_ready()

    def _env(self) -> dict[str, str]:
        return {"SHIORI_DATA_DIR": str(self.data_dir), "SHIORI_PORT": str(self.port), "SHIORI_MODEL_DIR": str(MODEL)}

    def _await_ready(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_SECONDS
        while not self.rest.ready():
            assert self.process.poll() is None and time.monotonic() < deadline, self.said()
            time.sleep(0.2)

    def said(self) -> str:
        return (self.data_dir / "supervisor.log").read_text(errors="replace")[-4000:]

    def pids(self) -> dict[str, int]:
        record: Json = json.loads(self.run_file.read_text())
        return {name: process["pid"] for name, process in record["processes"].items()}

    def kill(self, name: str) -> int:
        """kill -9 of one process, as a power cut or the kernel's memory killer would. Returns its id."""
        pid = self.pids()[name]
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill_engine(self) -> int:
        return self.kill("inference")

    def stop(self, number: int = signal.SIGINT) -> int:
        """Ctrl-C. Returns the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=STOP_SECONDS)

    def processes(self) -> list[str]:
        """Command lines of everything that runs on this folder: the environment tells."""
        marker = f"SHIORI_DATA_DIR={self.data_dir}\0".encode()
        return [line for pid in Path("/proc").iterdir() if pid.name.isdigit() and (line := _command(pid, marker))]

    # ---- reading, for the tests ----------------------------------------------------------------------------------

    def read(self, path: Path, name: str | None = None, seconds: float = 600) -> Json:
        """Uploads and waits for the end of the reading; the source as the API shows it."""
        source = self.rest.upload(path, name)
        job = self.wait(source["job_id"], seconds)
        assert job["status"] == "succeeded", job
        return self.rest.source(source)

    def wait(self, job_id: str, seconds: float = 600) -> Json:
        deadline = time.monotonic() + seconds
        while (job := self.rest.job(job_id, wait=10))["status"] not in ("succeeded", "failed", "cancelled"):
            assert time.monotonic() < deadline, job
        return job


def _command(pid: Path, marker: bytes) -> str:
    try:
        if marker not in (pid / "environ").read_bytes() + b"\0":
            return ""
        return (pid / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


@pytest.fixture(scope="session")
def sample_book() -> Path:
    found = sorted(path for path in (ROOT / "docs" / "samples").glob("*.md") if path.name != "README.md")
    assert found, "the sample book is missing from docs/samples"
    return found[0]


@pytest.fixture(scope="session")
def live_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSystem]:
    """One for all tests of the session: it is expensive, and tests leave it as they found it."""
    assert (MODEL / "model.safetensors").is_file(), f"the model that ships is missing from {MODEL}"
    system = LiveSystem(tmp_path_factory.mktemp("live") / "var")
    system.start()
    yield system
    if system.process is not None and system.process.poll() is None:
        system.stop(signal.SIGTERM)


@pytest.fixture(scope="session")
def book(live_system: LiveSystem, sample_book: Path) -> Json:
    """The sample, read."""
    return live_system.read(sample_book)
