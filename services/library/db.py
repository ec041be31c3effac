"""The database: one engine a process, short sessions, two ways in (`read`, `write`).

SQLite runs in WAL mode and its writers take the lock when they begin (BEGIN IMMEDIATE), so two of them wait for each
other instead of failing half-way. PostgreSQL needs none of that.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

from services.library import migrate

BUSY_MS = 20_000
# secure_delete: what is deleted is overwritten, so that no word of it stays in the file
PRAGMAS = ("journal_mode=WAL", f"busy_timeout={BUSY_MS}", "foreign_keys=ON", "synchronous=NORMAL", "secure_delete=ON")


class Database:
    """Holds the connection pool. `with database.write() as db:` commits at the end or rolls back."""

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(driver_url(url))
        self.engine = _sqlite(self.url) if self.sqlite else _postgres(self.url)
        self._reader = sessionmaker(self.engine, expire_on_commit=False)
        self._writer = sessionmaker(self.engine.execution_options(shiori_write=True), expire_on_commit=False)

    @property
    def sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Session]:
        with self._reader() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        with self._writer.begin() as session:
            yield session

    def revision(self) -> str | None:
        """The migration this database stands at."""
        with self.engine.connect() as connection:
            return migrate.current(connection)

    def check_revision(self) -> None:
        """Refuses a database of another version, with what to do about it."""
        found, wanted = self.revision(), migrate.head()
        if found != wanted:
            raise RuntimeError(
                f"the database is at revision {found or 'none'}, this program needs {wanted}: "
                "run `python -m services.library migrate`"
            )

    def checkpoint(self) -> None:
        """SQLite: empties the write-ahead log, which may still hold deleted rows; not now, when somebody reads."""
        if self.sqlite:
            with closing(self.engine.raw_connection()) as connection, closing(connection.cursor()) as cursor:
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # outside of any transaction

    def dispose(self, *, after_fork: bool = False) -> None:
        """Closes the pool; after a fork, forgets the parent's connections without closing them."""
        self.engine.dispose(close=not after_fork)


def driver_url(url: str) -> str:
    """postgresql:// means psycopg 3, the one driver we install."""
    for prefix in ("postgresql://", "postgres://"):
        if url.startswith(prefix):
            return "postgresql+psycopg://" + url.removeprefix(prefix)
    return url


def _postgres(url: sa.URL) -> sa.Engine:
    return sa.create_engine(url, pool_size=10, max_overflow=30, pool_pre_ping=True)


def _sqlite(url: sa.URL) -> sa.Engine:
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_MS / 1000}, pool_size=10, max_overflow=30)
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_begin(connection: sa.Connection) -> None:
    writing = connection.get_execution_options().get("shiori_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
