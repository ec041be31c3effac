"""The whole way of an operator: the command, a real engine, a real Redis, a cold tier; and damage done by hand."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import torch
from typer.testing import Result

from services.inference.client import InferenceClient
from services.inference.server import InferenceServer, build_server
from services.inference.settings import InferenceSettings
from tests.cli.conftest import vault
from tests.cli.test_metrics import scrape
from tests.conftest import free_port, plain_logs
from tests.inference.conftest import BOOK, model_dir, wait_for  # noqa: F401  (model_dir is a fixture)
from tests.inference.helpers import ask, read

torch.set_num_threads(1)
START = "The clocks were striking thirteen. " * 60


class System:
    """An engine with its vault in a folder, and what an operator does to both."""

    def __init__(self, model: Path, redis_url: str, folder: Path) -> None:
        self.folder, self.redis = folder, redis.Redis.from_url(redis_url)
        self.settings = InferenceSettings(
            address="127.0.0.1:0",
            model_dir=model,
            redis_url=redis_url,
            threads=1,
            tokens=32768,
            sweep_s=0,
            key_file=folder / "vault.key",
            cold_url=(folder / "cold").as_uri(),
            metrics_address=f"127.0.0.1:{free_port()}",
        )
        self.server: InferenceServer | None = None

    def start(self) -> "System":
        self.server, port = build_server(self.settings)
        self.server.start()
        self.address = f"127.0.0.1:{port}"
        self.client = InferenceClient(self.address)
        return self

    def stop(self) -> None:
        if self.server is not None:
            self.client.close()
            self.server.stop(grace_s=0)
            self.server = None

    def restart(self) -> None:
        """Nothing is left in the engine's memory."""
        self.stop()
        self.start()

    def shiori(self, *words: str) -> Result:
        return vault(self.address, *words)

    def read(self, session: str, words: str, **options: str) -> None:
        self.client.open_session(session)
        read(self.client, session, words, **options)

    def answer(self, session: str = "book") -> tuple[str, int, bool]:
        """Text, tokens resumed, whether any was computed again."""
        said = ask(self.client, session)
        return said.text, said.last.usage.resumed_tokens, said.last.usage.recomputed

    # ---- the hand that does damage -----------------------------------------------------------------------------------

    def blocks(self) -> list[bytes]:
        return sorted(self.redis.keys("shiori:{default}:blk:*"))

    def blocks_below(self) -> set[str]:
        return {path.name for path in (self.folder / "cold" / "default" / "blk").iterdir()}

    def blocks_in_both(self) -> set[str]:
        return {key.decode().rpartition(":")[2] for key in self.blocks()} & self.blocks_below()

    def cold_block(self, name: str) -> Path:
        return self.folder / "cold" / "default" / "blk" / name

    def wrapped_below(self) -> str:
        """The tenant's key as it lies in the cold tier; it names the master key."""
        return (self.folder / "cold" / "default" / "key").read_bytes().hex()

    def flip_in_redis(self, key: bytes) -> None:
        value = bytearray(self.redis.get(key) or b"")
        value[len(value) // 2] ^= 1
        self.redis.set(key, bytes(value))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


Start = Callable[..., System]


@pytest.fixture
def start(model_dir: Path, redis_url: str, tmp_path: Path) -> Iterator[Start]:  # noqa: F811
    plain_logs()
    running: list[System] = []

    def begin(model: Path = model_dir) -> System:
        running.append(System(model, redis_url, tmp_path).start())
        return running[-1]

    yield begin
    for system in running:
        system.stop()


@pytest.fixture
def system(start: Start) -> System:
    """Has read a book in two segments, with a bookmark between them."""
    system = start()
    system.read("book", START, bookmark="start")
    system.read("book", BOOK, bookmark="end")
    return system


@pytest.fixture
def below(system: System) -> System:
    """All of it is in the cold tier, and in Redis again."""
    assert system.shiori("tier-down").exit_code == 0
    system.restart()
    assert system.answer()[1] > 0
    assert system.blocks_in_both() < system.blocks_below()  # the tokens are not asked for
    return system


def findings(told: Result) -> set[tuple[str, str]]:
    return {(finding["tier"], finding["what"]) for finding in json.loads(told.stdout)["findings"]}


# ---- showing ---------------------------------------------------------------------------------------------------------


def test_show_counts_what_lies_where(below: System) -> None:
    told = json.loads(below.shiori("show", "--json").stdout)
    tiers = {tier["name"]: tier for tier in told["tiers"]}
    assert tiers["redis"]["blocks"] == len(below.blocks()) + len(below.redis.keys("shiori:{default}:man:*"))
    assert tiers["cold"]["blocks"] >= len(below.blocks_below())
    assert tiers["cold"]["bytes"] > 0
    assert (told["sessions"], told["durability"], told["damaged"]) == (1, "memory", 0)
    assert len(told["key_id"]) == 8


def test_show_never_tells_redis_password(start: Start) -> None:
    system = start()
    system.redis.config_set("requirepass", "hush-hush")
    try:
        told = system.shiori("show").output + system.shiori("show", "--json").output
    finally:
        system.redis.config_set("requirepass", "")
    assert "hush-hush" not in told


def test_history_says_where_a_session_stood(system: System) -> None:
    stood = system.client.describe_session("book").head
    system.client.rewind_session("book", "start")
    (entry,) = json.loads(system.shiori("history", "book", "--json").stdout)
    assert (entry["head"]["position"], entry["head"]["digest"]) == (stood.position, stood.digest)
    assert entry["until_ms"] > entry["left_ms"] > 0


def test_gc_frees_what_was_deleted(system: System) -> None:
    system.read("other", "Something else. " * 50)
    system.client.delete_session("other")
    assert system.shiori("gc").exit_code == 0
    before = len(system.blocks())
    system.client.delete_session("book")
    assert system.shiori("gc").exit_code == 0
    assert len(system.blocks()) == 0 < before


def test_prometheus_is_told_what_happened(below: System) -> None:
    """After a restart and one answer from the cold tier."""
    seen = scrape(below.settings.metrics_address)
    position = below.client.describe_session("book").head.position
    assert (seen["restored_tokens_total",], seen["restore_seconds_count",]) == (position, 1)
    assert seen["read_bytes_total", "cold"] > 0
    assert seen["tenant_bytes", "default", "cold"] > 0 < seen["tenant_bytes", "default", "redis"]
    assert seen["redis_used_bytes",] > 0
    assert sum(value for name, value in seen.items() if name[0] == "damaged_total") == 0
    below.read("more", "Something else. " * 50)
    assert scrape(below.settings.metrics_address)["saved_bytes_total",] > 0


# ---- damage ----------------------------------------------------------------------------------------------------------


def test_a_whole_vault_has_no_findings(below: System) -> None:
    told = below.shiori("verify", "--json")
    assert told.exit_code == 0, told.output
    seen = json.loads(told.stdout)
    assert seen["findings"] == []
    assert seen["checked"] == seen["total"] > 0


def test_a_flipped_bit_in_redis_is_found_and_mended_from_the_cold_tier(below: System) -> None:
    expected = below.answer()[0]
    for key in below.blocks():
        below.flip_in_redis(key)
    told = below.shiori("verify", "book", "--json")
    assert told.exit_code == 1
    assert findings(told) == {("redis", "bytes")}
    below.restart()
    told = below.shiori("repair", "book")
    assert told.exit_code == 0, told.output
    assert "cold" in told.stdout
    assert below.shiori("verify").exit_code == 0
    assert below.answer()[0::2] == (expected, False)


def test_a_flipped_bit_below_is_found_and_mended_from_redis(below: System) -> None:
    for name in below.blocks_in_both():
        flip(below.cold_block(name), 1000)
    told = below.shiori("verify", "--json")
    assert told.exit_code == 1
    assert findings(told) == {("cold", "bytes")}
    told = below.shiori("repair")
    assert told.exit_code == 0, told.output
    assert "redis" in told.stdout
    assert below.shiori("verify").exit_code == 0


def test_what_nothing_can_mend_is_status_1(below: System) -> None:
    """The tokens of a reading, where only the cold tier had them."""
    for name in below.blocks_below() - below.blocks_in_both():
        flip(below.cold_block(name), 40)
    assert below.shiori("verify").exit_code == 1
    told = below.shiori("repair")
    assert told.exit_code == 1, told.output
    assert below.shiori("verify").exit_code == 1


def test_a_flipped_bit_in_a_manifest_is_found_and_mended(below: System) -> None:
    expected = below.answer()[0]
    for key in below.redis.keys("shiori:{default}:man:*"):
        below.flip_in_redis(key)
    below.restart()
    told = below.shiori("verify", "--json")
    assert told.exit_code == 1
    assert findings(told) == {("redis", "manifest")}
    assert below.shiori("repair").exit_code == 0
    assert below.shiori("verify").exit_code == 0
    assert below.answer()[0::2] == (expected, False)


def test_a_cold_tier_that_is_away_is_not_taken_for_an_empty_one(below: System) -> None:
    cold = below.folder / "cold"
    cold.rename(below.folder / "elsewhere")
    told = below.shiori("verify")
    assert told.exit_code == 2
    assert "cold_unavailable" in told.stderr
    (below.folder / "elsewhere").rename(cold)
    assert below.shiori("verify").exit_code == 0


def test_what_is_lost_everywhere_is_computed_again(below: System) -> None:
    expected = below.answer()[0]
    manifest = below.server.servicer.loaded.vault  # type: ignore[union-attr]
    head = manifest.head("default", "book")
    pages = [ref.name for ref in manifest.manifest("default", head.view.manifest).pages]
    for name in pages:
        below.redis.delete(f"shiori:{{default}}:blk:{name}")
        below.cold_block(name).unlink()
    below.restart()
    assert below.shiori("verify").exit_code == 1
    told = below.shiori("repair")
    assert told.exit_code == 0, told.output
    assert "recomputed" in told.stdout
    below.restart()
    assert below.shiori("verify").exit_code == 0
    assert below.answer()[0::2] == (expected, False)


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def exported(system: System, tmp_path: Path) -> Path:
    file = tmp_path / "book.reading"
    told = system.shiori("export", "book", "-o", str(file))
    assert told.exit_code == 0, told.output
    return file


def test_an_exported_reading_answers_the_same_under_another_name(system: System, exported: Path) -> None:
    expected, position = system.answer()[0], system.client.describe_session("book").head.position
    system.client.delete_session("book")
    told = system.shiori("import", str(exported), "--session", "again")
    assert told.exit_code == 0, told.output
    assert f"again: {position:,} tokens" in told.stdout
    system.restart()
    text, resumed, recomputed = system.answer("again")
    assert (text, recomputed) == (expected, False)
    assert resumed == position


def test_bookmarks_travel_with_the_reading(system: System, exported: Path) -> None:
    """A chapter's bookmark is what a session about that chapter begins at."""
    assert system.shiori("import", str(exported), "--session", "again").exit_code == 0
    assert [mark.name for mark in system.client.describe_session("again").bookmarks] == ["start", "end"]


def test_nothing_of_a_document_stands_in_the_file(system: System, exported: Path) -> None:
    assert b"thirteen" not in exported.read_bytes()
    assert exported.stat().st_size > 1000


@pytest.mark.parametrize("where", [0, 0.01, 0.25, 0.5, 0.75, 1])
def test_a_file_with_one_flipped_bit_is_refused_whole(system: System, exported: Path, where: float) -> None:
    flip(exported, int(where * (exported.stat().st_size - 1)))
    before = set(system.redis.keys("*"))
    told = system.shiori("import", str(exported), "--session", "again")
    assert told.exit_code != 0
    assert "Traceback" not in told.output
    assert {key for key in set(system.redis.keys("*")) - before if b"again" in key or b":blk:" in key} == set()


def test_a_file_that_ends_too_early_is_refused(system: System, exported: Path) -> None:
    exported.write_bytes(exported.read_bytes()[:-40])
    assert system.shiori("import", str(exported), "--session", "again").exit_code != 0
    assert [session.session_id for session in system.client.list_sessions()] == ["book"]


def test_a_name_that_is_taken_is_refused(system: System, exported: Path) -> None:
    told = system.shiori("import", str(exported), "--session", "book")
    assert told.exit_code == 2
    assert "already_exists" in told.stderr


def test_another_models_file_is_refused_and_both_are_named(
    system: System, exported: Path, start: Start, other_model: Path
) -> None:
    ours = system.client.describe().fingerprint
    system.stop()
    other = start(other_model)
    told = other.shiori("import", str(exported), "--session", "again")
    assert told.exit_code == 2
    assert ours[:12] in told.stderr
    assert other.client.describe().fingerprint[:12] in told.stderr


@pytest.fixture
def other_model(model_dir: Path, tmp_path: Path) -> Path:  # noqa: F811
    """Another random model of the same shape, with the same tokenizer."""
    from engine.testing import save_random_checkpoint

    fields = json.loads((model_dir / "config.json").read_text())
    (tmp_path / "other").mkdir()
    folder = save_random_checkpoint(tmp_path / "other", fields, seed=7)
    (folder / "tokenizer.json").write_bytes((model_dir / "tokenizer.json").read_bytes())
    return folder


# ---- what is lost, and what comes back -------------------------------------------------------------------------------


def test_another_tenants_reading_does_not_exist(system: System, tmp_path: Path) -> None:
    for words in (("history", "book"), ("export", "book", "-o", str(tmp_path / "stolen")), ("verify", "book")):
        told = system.shiori(*words, "--tenant", "mallory")
        assert told.exit_code == 2, told.output
        assert "not_found" in told.stderr
    assert not (tmp_path / "stolen").exists()


def test_a_redis_that_lost_everything_is_filled_again(below: System) -> None:
    expected, resumed, _ = below.answer()
    below.stop()
    below.redis.flushall()
    below.start()
    told = below.shiori("recover")
    assert told.stdout.strip() == "1 sessions recovered, 0 left as they are"
    assert below.answer() == (expected, resumed, False)
    assert below.shiori("recover").stdout.startswith("0 sessions recovered, 1 left")


def test_a_sweep_takes_nothing_that_only_the_cold_tier_remembers(below: System) -> None:
    """Redis lost everything; before anybody recovers it, somebody reads something new and a sweep runs."""
    expected, resumed, _ = below.answer()
    below.stop()
    below.redis.flushall()
    below.start()
    below.read("new", "Something else. " * 50)
    assert below.shiori("gc").exit_code == 0
    assert below.shiori("recover").exit_code == 0
    assert below.answer() == (expected, resumed, False)
    assert below.shiori("verify").exit_code == 0


# ---- keys ------------------------------------------------------------------------------------------------------------


def test_a_rotated_key_replaces_the_old_one(below: System) -> None:
    expected = below.answer()[0]
    old = json.loads(below.shiori("show", "--json").stdout)["key_id"]
    path = below.folder / "vault.key"
    new = below.shiori("rotate-key", str(path)).stdout.splitlines()[0].split()[-1]
    below.restart()
    wait_for(lambda: json.loads(below.shiori("show", "--json").stdout)["key_id"] == new != old)
    path.write_text(path.read_text().splitlines()[0] + "\n")
    below.stop()
    below.redis.flushall()  # the cold tier's copy of the tenant's key was wrapped again too
    below.start()
    assert below.shiori("recover").exit_code == 0
    assert below.answer()[0] == expected


def test_a_key_that_was_lost_is_named_and_nothing_is_made_anew(below: System) -> None:
    path = below.folder / "vault.key"
    kept = path.read_text()
    old = json.loads(below.shiori("show", "--json").stdout)["key_id"]
    below.stop()
    path.unlink()
    below.start()
    told = below.shiori("verify", "book")
    assert told.exit_code == 2
    assert old in told.stderr
    below.stop()
    path.write_text(kept)
    below.start()
    assert below.shiori("verify").exit_code == 0


def test_rotation_reaches_who_is_in_the_cold_tier_only(below: System) -> None:
    expected, path = below.answer()[0], below.folder / "vault.key"
    old = json.loads(below.shiori("show", "--json").stdout)["key_id"]
    below.stop()
    below.redis.flushall()
    below.start()
    below.stop()
    assert vault("", "rotate-key", str(path)).exit_code == 0
    below.start()
    wait_for(lambda: old not in below.wrapped_below())
    path.write_text(path.read_text().splitlines()[0] + "\n")
    below.restart()
    assert below.shiori("recover").exit_code == 0
    assert below.answer()[0] == expected
