"""A conversation with the engine: where it is, and what its refusals look like on a terminal."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from services import errors
from services.cli.vault_client import VaultClient
from services.settings import Settings

DAMAGED, REFUSED = 1, 2
PIPE_WIDTH = 1000

Engine = Annotated[
    str,
    typer.Option(envvar="SHIORI_ENGINE_ADDRESS", metavar="HOST:PORT", help="Else the one that `make run` started."),
]
Tenant = Annotated[str, typer.Option(help="Whose readings.")]

out = Console(highlight=False, markup=False, emoji=False)
err = Console(highlight=False, markup=False, emoji=False, stderr=True)
if not out.is_terminal:
    out.width = PIPE_WIDTH  # a digest is for copying: no line is folded where no screen is


@contextlib.contextmanager
def engine_of(address: str, tenant: str) -> Iterator[VaultClient]:
    """A client; what the engine refuses ends the command with one line and its status."""
    address = address or running_engine(Settings().data_dir) or Settings().engine_address
    try:
        with contextlib.closing(VaultClient(address, tenant)) as client:
            yield client
    except errors.ShioriError as error:
        raise stop(_sentence(error, address), DAMAGED if isinstance(error, errors.DataLoss) else REFUSED) from None


def _sentence(error: errors.ShioriError, address: str) -> str:
    """The engine always gives a reason; an error without one comes from the way to it."""
    reason = error.extra.get("reason")
    if reason is None and isinstance(error, errors.EngineUnavailable):
        return f"no engine answers at {address}: start it, or name another with --engine HOST:PORT"
    return f"refused ({(reason or error.code).lower()}): {error.detail}"


def running_engine(data_dir: Path) -> str:
    """Of the system that runs on this folder now; "" when none does."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        record = json.loads((data_dir / "run.json").read_text())
        return f"127.0.0.1:{record['processes']['inference']['port']}"
    return ""


def stop(why: str, status: int = REFUSED) -> typer.Exit:
    err.print(f"shiori: {why}", style="bold red", soft_wrap=True)
    return typer.Exit(status)
