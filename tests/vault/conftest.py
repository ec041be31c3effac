"""What the tests of the vault's transport share."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import free_port, redis_binary
from tests.vault.servers import Process, Starter


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Starts a Redis of one's own with these options, also on the unix socket tmp_path/socket."""
    with contextlib.ExitStack() as stack:

        def starter(*options: str) -> tuple[Process, int]:
            port = free_port()
            command = [redis_binary(), "--port", str(port), "--dir", str(tmp_path), "--save", "", *options]
            process = subprocess.Popen([*command, "--unixsocket", str(tmp_path / "socket")], stdout=subprocess.DEVNULL)
            stack.callback(process.wait, 10)
            stack.callback(process.kill)
            await_port(port)
            return process, port

        yield starter


def await_port(port: int) -> None:
    for _ in range(500):
        with contextlib.suppress(OSError):
            return socket.create_connection(("127.0.0.1", port)).close()
        time.sleep(0.02)
    raise RuntimeError("Redis did not start")
