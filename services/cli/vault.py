"""`shiori vault …`: readings shown, checked, mended, taken elsewhere and brought back."""

import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from services.cli import files, progress, show
from services.cli.talk import DAMAGED, Engine, Tenant, engine_of, out, stop
from services.cli.vault_client import HOURS, VaultClient
from services.inference.client import Stream
from services.inference.pb import inference_pb2 as pb
from services.settings import Settings
from services.vault.keys import KeyProblem, MasterKey, master_keys

app = typer.Typer(no_args_is_help=True, help="Where readings are kept. Each command sees one tenant's readings.")

Session = Annotated[
    str, typer.Argument(metavar="SESSION", help="As GET /v1/sessions or `shiori vault verify` names it.")
]
AnySession = Annotated[str, typer.Argument(metavar="[SESSION]", help="All of them when none is named.")]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command(name="show")
def show_(engine: Engine = "", tenant: Tenant = "default", json: Json = False) -> None:
    """What lies in which tier, and what the limits are."""
    with engine_of(engine, tenant) as vault:
        report = vault.vault_report(HOURS)
    if json:
        print(show.as_json(show.as_dict(report)))
        return
    out.print(show.tiers(report))
    out.print()
    out.print(show.facts(report))


@app.command()
def verify(session: AnySession = "", engine: Engine = "", tenant: Tenant = "default", json: Json = False) -> None:
    """Read every block back from every tier. Status 1 when one is damaged or missing."""
    with engine_of(engine, tenant) as vault:
        last, found = _followed(vault.verify(session), "verifying")
    if json:
        listed = [show.as_dict(finding) for finding in found]
        print(show.as_json({"checked": last.checked, "total": last.total, "findings": listed}))
    else:
        _tell(last, found, mending=False)
    raise typer.Exit(DAMAGED if found else 0)


@app.command()
def repair(session: AnySession = "", engine: Engine = "", tenant: Tenant = "default") -> None:
    """The same, and mend: from another tier, or by reading again from the tokens. Status 1 when something is left."""
    with engine_of(engine, tenant) as vault:
        last, found = _followed(vault.repair(session), "repairing")
    _tell(last, found, mending=True)
    raise typer.Exit(DAMAGED if any(not finding.mended for finding in found) else 0)


def _followed(stream: Stream[pb.VaultFinding], what: str) -> tuple[pb.VaultFinding, list[pb.VaultFinding]]:
    """The last message, with the counts, and those that report damage."""
    found, last = [], pb.VaultFinding()
    with stream, progress.counting(what) as bar:
        for last in stream:
            bar.to(last.checked, last.total)
            if last.what:
                found.append(last)
    return last, found


def _tell(last: pb.VaultFinding, found: list[pb.VaultFinding], mending: bool) -> None:
    if found:
        out.print(show.findings(found, mending))
    mended = f", {sum(bool(finding.mended) for finding in found):,} mended" if mending else ""
    out.print(f"{last.checked:,} blocks checked, {len(found):,} damaged or missing{mended}")


@app.command()
def export(
    session: Session,
    file: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to; made whole or not at all.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    engine: Engine = "",
    tenant: Tenant = "default",
) -> None:
    """A reading as one file, sealed with the vault's master key."""
    started = time.monotonic()
    try:
        files.check_target(file, force)
        with engine_of(engine, tenant) as vault:
            count = files.write_whole(file, _arriving(vault, session))
    except (files.FileRefused, OSError) as error:
        raise stop(str(error)) from None
    out.print(f"{file}: {_moved(count, started)}", soft_wrap=True)


def _arriving(vault: VaultClient, session: str) -> Iterator[bytes]:
    total, done = vault.describe_session(session).saved_bytes, 0
    with vault.export(session) as stream, progress.moving("exporting", total) as bar:
        for chunk in stream:
            yield chunk.data
            done += len(chunk.data)
            bar.to(done)


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="Made by `export`.")],
    session: Annotated[str, typer.Option(metavar="NAME", help="What the new session is to be called.")],
    engine: Engine = "",
    tenant: Tenant = "default",
) -> None:
    """A new session from an exported file. Refused whole when a bit of it is wrong, or another model made it."""
    started, total = time.monotonic(), file.stat().st_size
    with engine_of(engine, tenant) as vault:
        made = vault.load(session, _leaving(files.chunks_of(file), total))
    out.print(f"{made.session_id}: {made.head.position:,} tokens, {_moved(total, started)}", soft_wrap=True)


def _leaving(chunks: Iterable[bytes], total: int) -> Iterator[bytes]:
    done = 0
    with progress.moving("importing", total) as bar:
        for chunk in chunks:
            yield chunk
            done += len(chunk)
            bar.to(done)


def _moved(count: int, started: float) -> str:
    seconds = time.monotonic() - started
    return f"{show.size(count)} in {seconds:.1f} s ({show.size(count / max(seconds, 1e-3))}/s)"


@app.command()
def gc(engine: Engine = "", tenant: Tenant = "default") -> None:
    """Free what nothing reaches any more."""
    with engine_of(engine, tenant) as vault:
        reply = vault.collect()
    out.print(f"freed {show.size(reply.freed_bytes)} in Redis, {show.size(reply.freed_cold_bytes)} in the cold tier")


@app.command()
def history(session: Session, engine: Engine = "", tenant: Tenant = "default", json: Json = False) -> None:
    """Where a session stood before, and until when that is kept."""
    with engine_of(engine, tenant) as vault:
        entries = vault.history(session)
    if json:
        print(show.as_json([show.as_dict(entry) for entry in entries]))
    elif entries:
        out.print(show.history(entries))
    else:
        out.print("no earlier heads are kept")


@app.command()
def tier_down(session: AnySession = "", engine: Engine = "", tenant: Tenant = "default") -> None:
    """Move blocks to the cold tier now instead of when they have been idle."""
    with engine_of(engine, tenant) as vault:
        reply = vault.tier_down(session)
    out.print(f"{reply.sessions:,} sessions, {show.size(reply.bytes)} to the cold tier")


@app.command()
def recover(engine: Engine = "", tenant: Tenant = "default") -> None:
    """Put heads, bookmarks and keys back from the cold tier into a Redis that lost them. What is there stays."""
    with engine_of(engine, tenant) as vault:
        reply = vault.recover()
    out.print(f"{reply.sessions:,} sessions recovered, {reply.skipped:,} left as they are")


@app.command()
def rotate_key(
    file: Annotated[Path | None, typer.Argument(envvar="SHIORI_VAULT_KEY_FILE", metavar="[KEY_FILE]")] = None,
) -> None:
    """Put a new master key on the key file's first line. The engine wraps the tenants' keys with it when it starts."""
    path = file or Settings().data_dir / "vault.key"
    if not path.is_file():
        raise stop(f"there is no key file {path}: name it, or SHIORI_VAULT_KEY_FILE")
    try:
        master_keys("", path)
        key = secrets.token_hex(32)
        files.prepend_line(path, key)
    except (KeyProblem, OSError) as error:
        raise stop(f"{path}: {error}") from None
    out.print(f"{path}: the newest key is {MasterKey.of(bytes.fromhex(key)).id.hex()}", soft_wrap=True)
    out.print("Restart the engine. When `shiori vault show` names this key for every tenant, the old lines may go.")
