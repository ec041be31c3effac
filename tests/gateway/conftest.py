"""A gateway over a migrated SQLite file and a real Redis."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from services.gateway.app import create_app
from services.library import migrate
from services.library.db import Database
from services.settings import Settings
from tests.fakes import FakeModel


@pytest.fixture(scope="session")
def empty_library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A migrated SQLite file, made once."""
    path = tmp_path_factory.mktemp("library") / "empty.db"
    database = Database(f"sqlite:///{path}")
    migrate.upgrade(database.engine)
    database.dispose()
    return path.read_bytes()


@pytest.fixture
def settings(tmp_path: Path, redis_url: str, empty_library: bytes) -> Settings:
    (tmp_path / "shiori.db").write_bytes(empty_library)
    return Settings(
        data_dir=tmp_path,
        database_url=f"sqlite:///{tmp_path}/shiori.db",
        redis_url=redis_url,
        web_dir=tmp_path / "dist",
        max_upload_mb=1,
        engine_address="127.0.0.1:1",
    )


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    made = Database(settings.database_url)
    yield made
    made.dispose()


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings, lambda tenant: FakeModel(tenant))) as made:
        yield made
