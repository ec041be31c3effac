"""What the tests of the vault share: servers, and vaults on a real Redis."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from services.vault.keeper import Keeper
from services.vault.vault import Vault
from tests.conftest import free_port, redis_binary
from tests.vault.making import make
from tests.vault.servers import Process, Starter

SECRET = "not-to-be-seen-anywhere"
RCLONE = str(Path(sys.executable).parent / "rclone")


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


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint, with one bucket, "bucket"; the server remembers which there are, so no other may be made."""
    folder, port = tmp_path_factory.mktemp("s3"), free_port()
    (folder / "bucket").mkdir()
    command = [RCLONE, "serve", "s3", "--auth-key", f"key,{SECRET}", "--addr", f"127.0.0.1:{port}", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    await_process(process, port)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(10)


def await_process(process: "subprocess.Popen[bytes]", port: int) -> None:
    for _ in range(500):
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.02)
    process.kill()
    raise RuntimeError("rclone's S3 server did not start")


@pytest.fixture
def s3_environment(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = s3_server
    for name, value in {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": SECRET}.items():
        monkeypatch.setenv(f"AWS_{name}", value)


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


@pytest.fixture
def keeper(redis_url: str, tmp_path: Path) -> Keeper:
    return make(redis_url, tmp_path)


@pytest.fixture
def vault(keeper: Keeper) -> Vault:
    return keeper.vault


@pytest.fixture
def hot(redis_url: str, tmp_path: Path) -> Vault:
    """Without a cold tier."""
    return make(redis_url, tmp_path, cold=False).vault
