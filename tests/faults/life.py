"""An engine's life: a process that serves until it is killed, forked from the zygote or started for real."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from services.cli.vault_client import VaultClient
from services.inference.client import InferenceClient
from tests.conftest import free_port

START_SECONDS = 60.0


class Life:
    """A process by its pidfd, so that no signal can hit a stranger. `port` is 0 until it serves."""

    def __init__(self, pid: int, port: int = 0) -> None:
        self.pid, self.port = pid, port
        self._fd = os.pidfd_open(pid)
        self._clients: list[InferenceClient] = []

    def client(self, tenant: str, timeout: float = 20.0) -> InferenceClient:
        """Closed when the life is killed: calls that run then fail at once instead of being tried again."""
        self._clients.append(InferenceClient(f"127.0.0.1:{self.port}", tenant, timeout=timeout))
        return self._clients[-1]

    def vault(self, tenant: str) -> VaultClient:
        """The operator's."""
        client = VaultClient(f"127.0.0.1:{self.port}", tenant)
        self._clients.append(client)
        return client

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)

    @property
    def alive(self) -> bool:
        return self._fd >= 0 and not self._ended(0)

    def leave(self) -> None:
        """SIGTERM: it copies down what was committed, and ends."""
        self.hang_up()
        self.signal(signal.SIGTERM)
        self._ended(30)
        self.kill()

    def kill(self) -> None:
        """kill -9; returns when the process is gone."""
        if self._fd < 0:
            return
        self.signal(signal.SIGKILL)
        self._ended(10)
        os.close(self._fd)
        self._fd = -1
        self.hang_up()

    def hang_up(self) -> None:
        while self._clients:
            self._clients.pop().close()

    def _ended(self, seconds: float) -> bool:
        return bool(select.select([self._fd], [], [], seconds)[0])


class Zygote:
    """The process that forks lives; see zygote.py. `log` gets everything that they say."""

    def __init__(self, log: Path) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GRPC_ENABLE_FORK_SUPPORT": "0"}
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.zygote"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, env=environment,
            )  # fmt: skip
        self._log = log

    def start(self, environment: dict[str, str], wait: bool = True) -> Life:
        """Without `wait` the life may be killed before it serves."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(environment).encode() + b"\n")
        self._process.stdin.flush()
        life = Life(int(self._hear("forked")["forked"]))
        if wait:
            life.port = self._hear("ready", life.pid)["port"]
        return life

    def _hear(self, word: str, pid: int | None = None) -> Any:
        """The next line that says `word` (of `pid`); lines of lives that were killed meanwhile are passed over."""
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            said = json.loads(line)
            if pid is not None and said.get("failed") == pid:
                raise RuntimeError(f"an engine did not start: {said['why']}")
            if word in said and pid in (None, said[word]):
                return said
        raise RuntimeError(f"the zygote ended: see {self._log}")

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


def start_process(environment: dict[str, str], log: Path) -> tuple[Life, subprocess.Popen[bytes]]:
    """`python -m services.inference`, without any shortcut."""
    port = free_port()
    settings = os.environ | environment | {"SHIORI_ENGINE_ADDRESS": f"127.0.0.1:{port}"}
    with log.open("ab") as out:
        process = subprocess.Popen([sys.executable, "-m", "services.inference"], env=settings, stdout=out, stderr=out)
    return Life(process.pid, port), process


def await_serving(life: Life, tenant: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            life.client(tenant).describe()
            return
        except Exception:
            if time.monotonic() > deadline or not life.alive:
                raise
            time.sleep(0.05)
