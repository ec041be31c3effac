"""Brings a database to the newest revision. Two at once are safe: the second waits, then finds nothing to do."""

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

SCRIPTS = Path(__file__).parent / "migrations"
LOCK = 0x5B10_2126  # any number, the same for every migrator


def config(connection: sa.Connection | None = None) -> Config:
    alembic = Config()
    alembic.set_main_option("script_location", str(SCRIPTS))
    alembic.attributes["connection"] = connection
    return alembic


@lru_cache(maxsize=1)
def head() -> str:
    """The revision this program needs."""
    found = ScriptDirectory.from_config(config()).get_current_head()
    assert found, f"no migrations under {SCRIPTS}"
    return found


def current(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def upgrade(engine: sa.Engine) -> tuple[str | None, str]:
    """Migrates, one at a time; returns the revisions before and after."""
    with _alone(engine), engine.connect() as connection:
        before = current(connection)
        connection.rollback()
        if before == head():
            return before, before
        if before:
            _back_up(engine, before)
        _run(connection)
        return before, head()


def _run(connection: sa.Connection) -> None:
    command.upgrade(config(connection), "head")
    connection.commit()


@contextmanager
def _alone(engine: sa.Engine) -> Iterator[None]:
    with _file_lock(engine) if engine.dialect.name == "sqlite" else _advisory_lock(engine):
        yield


@contextmanager
def _file_lock(engine: sa.Engine) -> Iterator[None]:
    with open(f"{engine.url.database}.migrate.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def _advisory_lock(engine: sa.Engine) -> Iterator[None]:
    with engine.connect() as connection:
        connection.execute(sa.text("select pg_advisory_lock(:lock)"), {"lock": LOCK})
        try:
            yield
        finally:
            connection.execute(sa.text("select pg_advisory_unlock(:lock)"), {"lock": LOCK})


def _back_up(engine: sa.Engine, revision: str) -> None:
    """SQLite only: a copy beside the file. PostgreSQL has pg_dump, see docs/operations.md."""
    if engine.dialect.name != "sqlite":
        return
    database = str(engine.url.database)
    source, copy = sqlite3.connect(database), sqlite3.connect(f"{database}.{revision}.backup")
    with source, copy:
        source.backup(copy)
    source.close()
    copy.close()
