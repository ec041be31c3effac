"""`python -m services.library migrate | revision`."""

import logging

import typer

from services import log
from services.library import migrate as migrations
from services.library.db import Database
from services.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, help="The library's database.")


@app.command()
def migrate() -> None:
    """Bring the database to the newest revision. Safe to run twice at once."""
    settings = Settings()
    log.configure("migrate", settings)
    logging.getLogger("alembic").setLevel("WARNING")
    before, after = migrations.upgrade(Database(settings.database_url).engine)
    log.get_logger(__name__).info("migrated" if before != after else "already_migrated", before=before, after=after)


@app.command()
def revision() -> None:
    """Print the database's revision and the one this program needs."""
    found = Database(Settings().database_url).revision()
    typer.echo(f"database {found or 'none'}, program {migrations.head()}")


if __name__ == "__main__":
    app()
