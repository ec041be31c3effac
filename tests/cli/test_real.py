"""The whole way of an operator: the command, a real engine, a real Redis, a cold tier; and damage done by hand."""

import json
from pathlib import Path

from typer.testing import Result

from tests.cli.system import Start, System, flip, vault
from tests.cli.test_metrics import scrape
from tests.inference.conftest import wait_for


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
