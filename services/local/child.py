"""One supervised process: its own process group, its log, and its end when the supervisor ends, however that comes."""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PR_SET_PDEATHSIG = 1
LOG_LIMIT = 20 * 2**20
BACKOFF = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STABLE_SECONDS = 60.0
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Runs in the child between fork and exec: the kernel sends it this signal when its parent dies."""
    _prctl(PR_SET_PDEATHSIG, number)


@dataclass(frozen=True)
class Spec:
    """What to start, how to know that it is up, and how long it may take to stop."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    port: int | None = None
    ready: Callable[[], bool] = lambda: True
    stop_seconds: float = 10.0


@dataclass
class Child:
    spec: Spec
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    crashes: int = 0
    restart_at: float | None = None
    history: list[int] = field(default_factory=list)

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            log.write(f"--- {time.strftime('%F %T')} start: {' '.join(self.spec.command)}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                self.spec.command,
                env=dict(self.spec.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self.started, self.restart_at = time.monotonic(), None

    def exited(self) -> int | None:
        return self.process.poll() if self.process else None

    def schedule_restart(self) -> float:
        """Waits longer after each crash; a process that had run for a while starts again at once. Returns the wait."""
        if time.monotonic() - self.started > STABLE_SECONDS:
            self.crashes = 0
        wait = BACKOFF[min(self.crashes, len(BACKOFF) - 1)]
        self.crashes += 1
        self.restart_at = time.monotonic() + wait
        return wait

    def signal(self, number: int) -> None:
        """To the whole group, so that a worker's own children hear it too."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)

    def interrupt(self) -> None:
        """Asks the process itself to stop; it takes its own children with it."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> bool:
        if self.process is None:
            return True
        try:
            self.process.wait(timeout=max(0.0, seconds))
        except subprocess.TimeoutExpired:
            return False
        return True

    def rotate(self) -> None:
        """Copies a grown log aside and empties it; the process keeps its descriptor, which appends."""
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            shutil.copyfile(self.log, self.log.with_suffix(".log.1"))
            os.truncate(self.log, 0)

    def tail(self, lines: int = 12) -> list[str]:
        if not self.log.exists():
            return []
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - 8192))
            read = log.read().decode("utf-8", "replace").splitlines()
        return [line for line in read if not line.startswith("--- ")][-lines:]
