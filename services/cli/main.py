"""The command `shiori`. Status 0: fine. 1: damage was found. 2: used wrongly, or refused."""

import typer

from services.cli import train, vault

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Shiori, from a shell.")
app.add_typer(vault.app, name="vault")
app.command()(train.train)
