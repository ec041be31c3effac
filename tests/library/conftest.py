"""Every test here runs on SQLite and on PostgreSQL, migrated."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.library import migrate
from services.library.db import Database


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/x.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").new_database()
    made = Database(url)
    yield made
    made.dispose()


@pytest.fixture
def database(empty_database: Database) -> Database:
    migrate.upgrade(empty_database.engine)
    return empty_database
