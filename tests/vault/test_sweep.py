"""Sweeps take what nothing names any more, and nothing else, whatever goes on beside them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from services.vault.keeper import Keeper
from services.vault.manifest import Manifest
from services.vault.sweep import NotSwept
from services.vault.vault import Vault
from services.vault.views import View, now_ms
from tests.vault.making import EMPTY, blocks, draft, make, opened, whole


def test_delete_frees_what_no_fork_names(vault: Vault, keeper: Keeper, client: redis.Redis, tmp_path: Path) -> None:
    head, manifest = vault.commit("t", opened(vault), draft(EMPTY, 700), bookmark="one")
    vault.heads.fork("t", "s", "fork", "one")
    vault.commit("t", head, draft(manifest, 600, seed=1))
    keeper.tiers and keeper.tiers.copy_down("t", "s")
    assert keeper.delete("t", "s") > 0
    assert whole(vault, vault.at("t", vault.head("t", "fork").view), seed=0)
    keeper.delete("t", "fork")
    left = {key.split(b":")[2] for key in client.scan_iter()}
    assert left <= {b"counters", b"key", b"keycopy"}
    assert [path.name for path in (tmp_path / "cold").rglob("*") if path.is_file()] == ["key"]


def test_a_sweep_between_blocks_and_head_makes_the_writer_write_again(
    vault: Vault, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, write, swept = opened(vault), vault.store.put_manifest, []

    def sweep_first(tenant: str, key: Any, manifest: Manifest) -> str:
        name = write(tenant, key, manifest)
        if not swept:
            swept.append(keeper.collect(tenant).freed)
        return name

    monkeypatch.setattr(vault.store, "put_manifest", sweep_first)
    _, manifest = vault.commit("t", head, draft(EMPTY, 700))
    assert swept[0] > 0
    assert whole(vault, manifest, seed=0)


def test_a_head_that_moves_while_marking_stops_the_unlink(
    hot: Vault, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = make(redis_url, tmp_path, cold=False)
    vault = keeper.vault
    head, _ = vault.commit("t", opened(vault), draft(EMPTY, 300), bookmark="one")
    vault.heads.move("t", head, replace(head.view, position=0, digest="00" * 32), "test", 0)
    vault.commit("t", vault.heads.begin("t", "s"), draft(EMPTY, 300, seed=1))
    reach, forked = keeper.sweeper.reach, []

    def fork_after(tenant: str) -> Any:
        found = reach(tenant)
        if not forked:
            forked.append(vault.heads.fork("t", "s", "late", "one"))
        return found

    monkeypatch.setattr(keeper.sweeper, "reach", fork_after)
    keeper.collect("t")
    assert whole(vault, vault.at("t", forked[0].view), seed=0)


def test_a_sweep_takes_nothing_while_a_head_cannot_be_read(
    hot: Vault, redis_url: str, tmp_path: Path, client: redis.Redis
) -> None:
    head, _ = hot.commit("t", opened(hot), draft(EMPTY, 300))
    before = blocks(client)
    client.hset("shiori:{t}:head:s", "manifest", "0" * 40)
    with pytest.raises(NotSwept):
        make(redis_url, tmp_path, cold=False).collect("t")
    assert blocks(client) == before and head


# --- histories --------------------------------------------------------------------------------------------------------


def test_the_sweep_drops_what_is_over_from_the_history_and_the_rounds_know_when(
    vault: Vault, keeper: Keeper, client: redis.Redis
) -> None:
    _, manifest = vault.commit("t", opened(vault), draft(EMPTY, 300), bookmark="one")
    mark = vault.marks("t", "s")[0].view
    for n, lease_ms in ((1, 0), (2, 60_000), (3, 0)):
        vault.commit("t", vault.heads.begin("t", "s"), draft(manifest, 300, seed=n))
        vault.heads.move("t", vault.head("t", "s"), mark, f"number {n}", lease_ms)
    assert client.hlen("shiori:{t}:hist:s") == 3
    keeper.collect("t")
    assert client.hlen("shiori:{t}:hist:s") == 1 and not keeper.sweeper.waiting("t")
    (past,) = vault.bookmarks.history("t", "s")
    assert past.reason == "number 2" and whole(vault, vault.at("t", past.view), seed=2)


def test_the_rounds_free_a_history_when_its_lease_ends_though_no_head_moves(
    redis_url: str, tmp_path: Path, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = make(redis_url, tmp_path, cold=False)
    vault = keeper.vault
    head, manifest = vault.commit("t", opened(vault), draft(EMPTY, 300))
    vault.heads.move("t", head, View(fingerprint="finger"), "test", lease_ms=3_600_000)
    keeper.rounds.once()
    assert client.exists("shiori:{t}:hist:s") and len(blocks(client)) == len(manifest.refs())
    later = now_ms() + 3_600_001
    for room in ("sweep", "marks"):
        monkeypatch.setattr(f"services.vault.{room}.now_ms", lambda: later)
    keeper.rounds.once()
    assert not client.exists("shiori:{t}:hist:s") and not blocks(client)
