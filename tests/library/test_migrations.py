"""The migrations make the tables, on both databases, whoever runs them and how often."""

import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from services.library import migrate
from services.library.db import Database
from services.library.tables import Base


def test_the_migrations_make_exactly_the_tables(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_two_migrators_at_once_are_safe(empty_database: Database) -> None:
    url = empty_database.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "services.library", "migrate"]
    both = [subprocess.Popen(command, env={"SHIORI_DATABASE_URL": url, "PATH": "/usr/bin"}) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    empty_database.check_revision()


def test_migrating_twice_changes_nothing(database: Database) -> None:
    assert migrate.upgrade(database.engine) == (migrate.head(), migrate.head())


def test_a_database_that_was_never_migrated_is_refused(empty_database: Database) -> None:
    with pytest.raises(RuntimeError, match=r"services\.library migrate"):
        empty_database.check_revision()
