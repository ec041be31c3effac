"""`shiori vault`: what it shows, its status, and what it refuses."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from services import errors
from services.cli import show, talk
from services.inference.pb import inference_pb2 as pb
from services.vault.keys import master_keys
from tests.cli.conftest import Cli, Peer, exact, vault
from tests.conftest import free_port

REPORT = pb.VaultReport(
    tiers=[
        pb.VaultTier(name="redis", where="127.0.0.1:6399", blocks=4_096, bytes=8_456_000_000, limit_bytes=10**10),
        pb.VaultTier(name="cold", where="file:///srv/[shiori]/cold", blocks=70_000, bytes=140 * 10**9),
    ],
    sessions=12,
    used_bytes=1_000,
    key_id="0badcafe",
    damaged=2,
)


# ---- showing ---------------------------------------------------------------------------------------------------------


def test_show_names_tiers_and_limits(run: Cli, peer: Peer) -> None:
    peer.report = REPORT
    told = run("show")
    assert told.exit_code == 0, told.stderr
    lines = [line.split() for line in told.stdout.splitlines()]
    assert ["redis", "127.0.0.1:6399", "4,096", "8.46", "GB", "10", "GB"] in lines
    assert ["cold", "file:///srv/[shiori]/cold", "70,000", "140", "GB"] in lines
    assert ["master", "key", "0badcafe"] in lines
    assert "1 kB, no limit" in told.stdout


def test_show_for_programs_has_every_field_and_numbers_as_numbers(run: Cli, peer: Peer) -> None:
    peer.report = REPORT
    told = json.loads(run("show", "--json").stdout)
    assert told["tiers"][0]["bytes"] == 8_456_000_000
    assert (told["damaged"], told["quota_bytes"]) == (2, 0)


def test_a_call_is_the_tenants(run: Cli, peer: Peer) -> None:
    run("show", "--tenant", "alice")
    run("history", "ses_1")
    assert peer.asked == [("Show", "alice", ""), ("History", "default", "ses_1")]


def test_history_can_be_copied_from(run: Cli, peer: Peer) -> None:
    head = pb.Head(position=1_234, digest="ab" * 32)
    peer.entries.append(pb.VaultHistoryEntry(head=head, reason="rewind", left_ms=10**12, until_ms=2 * 10**12))
    assert "ab" * 32 in run("history", "book").stdout
    assert json.loads(run("history", "book", "--json").stdout)[0]["head"]["position"] == 1_234


def test_sizes_have_three_digits() -> None:
    assert [show.size(n) for n in (0, 999, 999_499, 999_999, 8_456_000_000, 10**17)] == [
        *("0 B", "999 B", "999 kB", "1 MB", "8.46 GB", "100 PB")
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("gc",), "freed 1.5 MB in Redis, 2 kB in the cold tier"),
        (("tier-down", "book"), "2 sessions, 3 GB to the cold tier"),
        (("recover",), "4 sessions recovered, 1 left as they are"),
    ],
)
def test_what_was_done_is_said(run: Cli, words: tuple[str, ...], says: str) -> None:
    told = run(*words)
    assert (told.exit_code, told.stdout.strip()) == (0, says)


# ---- damage ----------------------------------------------------------------------------------------------------------


def test_a_whole_vault_is_status_0(run: Cli) -> None:
    told = run("verify")
    assert (told.exit_code, told.stdout.strip()) == (0, "9 blocks checked, 0 damaged or missing")


def test_damage_is_listed_and_status_1(run: Cli, peer: Peer) -> None:
    peer.found = [exact("redis bytes", "a" * 64), exact("cold missing", "b" * 64)]
    told = run("verify", "book")
    assert told.exit_code == 1
    assert ["book", "a" * 16, "page", "redis", "bytes"] in [line.split() for line in told.stdout.splitlines()]
    assert "9 blocks checked, 2 damaged or missing" in told.stdout
    seen = json.loads(run("verify", "book", "--json").stdout)
    assert [finding["what"] for finding in seen["findings"]] == ["bytes", "missing"]
    assert seen["checked"] == seen["total"] == 9


def test_repair_is_status_0_only_when_all_is_mended(run: Cli, peer: Peer) -> None:
    peer.found = [exact("redis bytes", "a" * 64, mended="cold")]
    told = run("repair")
    assert told.exit_code == 0
    assert "1 damaged or missing, 1 mended" in told.stdout
    peer.found.append(exact("cold missing", "b" * 64))
    assert run("repair").exit_code == 1


# ---- files -----------------------------------------------------------------------------------------------------------


def test_an_exported_file_is_whole_private_and_comes_back(run: Cli, peer: Peer, tmp_path: Path) -> None:
    peer.archive = [b"one" * 100_000, b"two" * 700_000]
    file = tmp_path / "book.reading"
    told = run("export", "book", "-o", str(file))
    assert told.exit_code == 0, told.stderr
    assert file.read_bytes() == b"".join(peer.archive)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    told = run("import", str(file), "--session", "again")
    assert told.exit_code == 0, told.stderr
    assert told.stdout.startswith("again: 12,345 tokens, 2.4 MB")
    assert peer.received == file.read_bytes()
    assert peer.asked[-1] == ("Import", "default", "again")


def test_a_file_is_not_overwritten_unless_forced(run: Cli, peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "book.reading"
    file.write_bytes(b"precious")
    peer.archive = [b"new"]
    told = run("export", "book", "-o", str(file))
    assert told.exit_code == 2
    assert "exists: choose another name, or --force" in told.stderr
    assert file.read_bytes() == b"precious"
    assert run("export", "book", "-o", str(file), "--force").exit_code == 0
    assert file.read_bytes() == b"new"


def test_an_export_that_breaks_leaves_nothing(run: Cli, peer: Peer, tmp_path: Path) -> None:
    peer.archive, peer.refuses, peer.refuses_after = [b"a", b"b"], errors.DataLoss("a page is lost: repair first"), 1
    told = run("export", "book", "-o", str(tmp_path / "book.reading"))
    assert told.exit_code == 1
    assert "a page is lost: repair first" in told.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", [".", "no/such/folder/file"])
def test_a_target_that_cannot_be_is_refused_before_the_work(run: Cli, peer: Peer, tmp_path: Path, target: str) -> None:
    assert run("export", "book", "-o", str(tmp_path / target)).exit_code == 2
    assert peer.asked == []


def test_the_reason_why_a_file_is_refused_is_shown(run: Cli, peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "foreign"
    file.write_bytes(b"x" * 3_000_000)
    peer.refuses = errors.StateIncompatible("the file was made by model 1234, this engine serves 5678: read again")
    told = run("import", str(file), "--session", "again")
    assert told.exit_code == 2
    assert "refused (state_incompatible): the file was made by model 1234" in told.stderr


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_an_engine_that_is_away_is_named() -> None:
    address = f"127.0.0.1:{free_port()}"
    told = vault(address, "show")
    assert told.exit_code == 2
    assert f"no engine answers at {address}: start it" in told.stderr


def test_a_store_that_is_away_is_not_the_engines_absence(run: Cli, peer: Peer) -> None:
    peer.refuses = errors.Unavailable("the vault is away", code="vault_unavailable")
    assert "refused (vault_unavailable): the vault is away" in run("verify").stderr


def test_the_engine_of_the_running_system_is_found(tmp_path: Path) -> None:
    assert talk.running_engine(tmp_path) == ""
    (tmp_path / "run.json").write_text('{"processes": {"inference": {"pid": 1, "port": 50077}}}')
    assert talk.running_engine(tmp_path) == "127.0.0.1:50077"


def test_wrong_use_is_status_2() -> None:
    command = [sys.executable, "-m", "services.cli", "vault", "import", "/no/such/file", "--session", "a"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "/no/such/file" in done.stderr


# ---- keys ------------------------------------------------------------------------------------------------------------


def test_a_new_master_key_comes_first_and_the_old_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "vault.key"
    (old,) = master_keys("", path)
    told = vault("", "rotate-key", str(path))
    assert told.exit_code == 0, told.stderr
    new, kept = master_keys("", path)
    assert kept.id == old.id != new.id
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert new.id.hex() in told.stdout
    assert new.raw.hex() not in told.stdout


def test_a_key_file_that_is_missing_or_broken_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "vault.key"
    assert "there is no key file" in vault("", "rotate-key", str(path)).stderr
    path.write_text("not a key\n")
    told = vault("", "rotate-key", str(path))
    assert told.exit_code == 2
    assert "64 hex digits" in told.stderr
    assert path.read_text() == "not a key\n"


def test_the_command_needs_no_torch() -> None:
    """The image of the gateway, where operators in containers find it, has none."""
    code = "import sys, services.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
