"""`python -m services.worker --queues interactive`: does the jobs of some queues."""

import sys
from typing import Annotated

import typer

from services import log
from services.jobs import Queues
from services.library.db import Database
from services.settings import Settings
from services.worker.app import run


def main(
    queues: Annotated[str, typer.Option(help="Some of: " + ", ".join(Queues))] = ",".join(Queues),
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, help="Jobs at once")] = 2,
) -> None:
    settings = Settings()
    log.configure("worker", settings)
    try:
        wanted = [Queues(name.strip()) for name in queues.split(",") if name.strip()]
        Database(settings.database_url).check_revision()
    except (ValueError, RuntimeError) as error:
        sys.exit(str(error))
    run(settings, wanted, concurrency)


if __name__ == "__main__":
    typer.run(main)
