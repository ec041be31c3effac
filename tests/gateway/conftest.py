"""A gateway over a migrated SQLite file, a real Redis and a twin of the engine."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient

from services.gateway.app import create_app
from services.library.db import Database
from services.settings import Settings
from services.worker.run import Tools
from services.worker.tasks import make_tools
from tests.fakes import FileTwin

BOOK = """CHAPTER I

The lighthouse keeper was called Osric Vane. He lit the lamp at six.

CHAPTER II

His daughter Mirabel kept the ledger. She counted every ship that passed.

CHAPTER III

In the winter the lamp went out, and Osric rowed to the mainland for oil.
"""


@pytest.fixture
def twin(tmp_path: Path) -> FileTwin:
    return FileTwin(tmp_path / "engine")


@pytest.fixture
def client(settings: Settings, twin: FileTwin) -> Iterator[TestClient]:
    with TestClient(create_app(settings, lambda tenant: twin)) as made:
        yield made


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    made = Database(settings.database_url)
    yield made
    made.dispose()


@pytest.fixture
def tools(settings: Settings, tmp_path: Path) -> Tools:
    """A worker's, in this process."""
    return make_tools(settings, lambda tenant: FileTwin(tmp_path / "engine", tenant))


@pytest.fixture
def served(settings: Settings, twin: FileTwin) -> Iterator[httpx.Client]:
    """The gateway on a real port, as streams need it."""
    config = uvicorn.Config(create_app(settings, lambda tenant: twin), port=0, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as made:
        yield made
    server.should_exit = True
    thread.join(10)
