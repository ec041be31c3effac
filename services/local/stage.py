"""A running system for the demo: the one that is there, or one started for it."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import IO, Any

from services.local.child import die_with_parent
from services.local.rest import Rest

START_SECONDS = 150.0


class NotStarted(Exception):
    """With the end of what the supervisor said."""


class Stage:
    def __init__(self, data_dir: Path, default_url: str, key: str) -> None:
        self.data_dir = data_dir
        self.run_file = data_dir / "run.json"
        self.log = data_dir / "log" / "supervisor.log"
        self.default_url, self.key = default_url, key
        self.process: subprocess.Popen[bytes] | None = None

    def open(self) -> Rest:
        """Attaches to the system that runs on this folder, or starts one."""
        running = self.record()
        rest = Rest(running.get("url", self.default_url), self.key)
        if running and rest.ready():
            return rest
        self.process = self._start()
        deadline = time.monotonic() + START_SECONDS
        while not rest.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise NotStarted(self._tail())
            time.sleep(0.2)
        return Rest(self.record()["url"], self.key)

    def close(self) -> None:
        """Stops what `open` started, and nothing else."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=60)

    def record(self) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(self.run_file.read_text())
        except (OSError, ValueError):
            return {}
        return record

    def engine_pid(self) -> int | None:
        pid: int | None = self.record().get("processes", {}).get("inference", {}).get("pid")
        return pid

    def kill_engine(self) -> int:
        """kill -9. Returns the process id that is no more."""
        pid = self.engine_pid()
        if pid is None:
            raise NotStarted("there is no engine process to kill")
        os.kill(pid, signal.SIGKILL)
        return pid

    def _start(self) -> subprocess.Popen[bytes]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            return self._spawn(log)

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "services.local", "run"],
            env={**os.environ, "SHIORI_DATA_DIR": str(self.data_dir)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=partial(die_with_parent, signal.SIGTERM),
        )

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])
