"""The vault against a real Redis and a cold folder: what is written comes back or is refused."""

import itertools
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from services import errors
from services.vault.keeper import Keeper
from services.vault.manifest import Rung, thinned
from services.vault.sealing import MAX_VALUE, OVERHEAD, Damaged, Ref, page_tokens
from services.vault.store import block_key, manifest_key
from services.vault.vault import Vault
from tests.vault.making import EMPTY, blocks, draft, make, opened, state, whole


@pytest.fixture
def fresh(redis_url: str, tmp_path: Path) -> Callable[[], Vault]:
    """Another process: nothing in memory, no cold tier to help."""
    return lambda: make(redis_url, tmp_path, cold=False).vault


# --- out and in -------------------------------------------------------------------------------------------------------


def test_a_reading_comes_back_bit_for_bit(vault: Vault, fresh: Callable[[], Vault]) -> None:
    wanted = draft(EMPTY, 700)
    head, manifest = vault.commit("t", opened(vault), wanted)
    other = fresh()
    assert other.at("t", other.head("t", "s").view) == manifest
    assert whole(other, manifest, seed=0)
    assert other.ids("t", manifest) == [("part 0", list(range(700)))]
    assert other.head("t", "s").view == head.view


def test_a_reading_opens_while_redis_can_write_nothing(
    vault: Vault, fresh: Callable[[], Vault], client: redis.Redis
) -> None:
    _, manifest = vault.commit("t", opened(vault), draft(EMPTY, 700))
    client.config_set("maxmemory", 1)
    try:
        other = fresh()
        other.heads.touch("t", "s")
        assert other.at("t", other.head("t", "s").view) == manifest and whole(other, manifest, seed=0)
        with pytest.raises(redis.exceptions.ResponseError, match="OOM"):
            other.heads.begin("t", "s")
    finally:
        client.config_set("maxmemory", 0)


def test_whole_pages_are_written_once(vault: Vault, client: redis.Redis) -> None:
    head, one = vault.commit("t", opened(vault), draft(EMPTY, 700))
    before = set(blocks(client))
    _, two = vault.commit("t", head, draft(one, 100, seed=1))
    assert two.pages[:2] == one.pages[:2]
    assert [page.last for page in two.pages] == [256, 512, 768, 800]
    assert len(set(blocks(client)) - before) == 2 + len(two.rungs[-1].parts) + 1  # two pages, the snapshot, the log


def test_equal_readings_of_a_tenant_share_every_block(vault: Vault, client: redis.Redis) -> None:
    _, one = vault.commit("t", opened(vault, "a"), draft(EMPTY, 700))
    before = blocks(client)
    _, two = vault.commit("t", opened(vault, "b"), draft(EMPTY, 700))
    assert one == two and blocks(client) == before


def test_nothing_of_two_tenants_is_alike(vault: Vault, client: redis.Redis) -> None:
    """Neither names nor bytes: nobody can test whether another tenant has read a text."""
    _, one = vault.commit("t", opened(vault), draft(EMPTY, 300))
    _, two = vault.commit("u", opened(vault, tenant="u"), draft(EMPTY, 300))
    assert not {ref.name for ref in one.refs()} & {ref.name for ref in two.refs()}
    values = [client.get(key) for key in blocks(client)]
    assert len({value[64:] for value in values if value}) == len(values)
    heads = repr([client.hgetall(key) for key in client.keys("*:head:*")]).encode()
    everything = b"".join(value or b"" for value in values) + heads
    assert one.digest.encode() not in everything and bytes.fromhex(one.digest) not in everything


def test_another_tenants_key_opens_nothing(vault: Vault) -> None:
    _, manifest = vault.commit("t", opened(vault), draft(EMPTY, 300))
    with pytest.raises(Damaged):
        list(vault.store.blocks.fetch("t", vault.keys.of("u"), manifest.refs()))


def test_values_fit_an_allocators_class() -> None:
    """Just below a power of two, so that Redis' memory is the payload's."""
    for row in (8064, 1024, 320, 64, 2_000_000):
        size = page_tokens(row) * row + OVERHEAD
        assert size <= MAX_VALUE or page_tokens(row) == 1
        room = 1 << size.bit_length()
        assert row > 100_000 or size > 0.96 * room * (1 if size > room // 2 else 0.5)


@pytest.mark.parametrize("kind", ["page", "snapshot", "log"])
@pytest.mark.parametrize("harm", ["flip", "cut", "grow", "swap", "delete"])
def test_every_harm_to_a_block_is_seen(
    hot: Vault, fresh: Callable[[], Vault], client: redis.Redis, kind: str, harm: str
) -> None:
    """And the harmed block is out of the way, so that it can be written again."""
    head, one = hot.commit("t", opened(hot), draft(EMPTY, 700))
    _, manifest = hot.commit("t", head, draft(one, 700, seed=1))
    refs = manifest.rungs[-1].parts if kind == "snapshot" else [ref for ref in manifest.refs() if ref.kind == kind]
    key = block_key("t", refs[0].name)
    hurt(client, key, harm, block_key("t", next(ref.name for ref in manifest.refs() if ref.name != refs[0].name)))
    vault = fresh()
    with pytest.raises(Damaged):
        vault.ids("t", manifest) if kind == "log" else whole(vault, manifest, 1)
    assert not client.exists(key)


def hurt(client: redis.Redis, key: Any, harm: str, other: Any = "") -> None:
    data: Any = bytearray(client.get(key) or b"")
    match harm:
        case "delete":
            client.delete(key)
        case "swap":
            client.set(key, client.get(other) or b"")
        case "cut":
            client.set(key, bytes(data[:-1]))
        case "grow":
            client.set(key, bytes(data) + bytes(3 * 1024 * 1024))
        case _:
            data[random.Random(str(key)).randrange(len(data))] ^= 1
            client.set(key, bytes(data))


def test_a_harmed_manifest_is_seen_and_the_cold_tiers_is_taken(
    keeper: Keeper, vault: Vault, fresh: Callable[[], Vault], redis_url: str, tmp_path: Path, client: redis.Redis
) -> None:
    head, manifest = vault.commit("t", opened(vault), draft(EMPTY, 300))
    keeper.back_up("t", "s")
    hurt(client, manifest_key("t", head.view.manifest), "flip")
    with pytest.raises(Damaged):
        fresh().at("t", head.view)
    assert make(redis_url, tmp_path).vault.at("t", head.view) == manifest


@pytest.mark.parametrize("field", ["view", "position", "manifest", "epoch", "parent", "used_ms"])
def test_a_harmed_field_of_a_head_is_mended_or_refused(
    vault: Vault, fresh: Callable[[], Vault], client: redis.Redis, field: str
) -> None:
    head, one = vault.commit("t", opened(vault), draft(EMPTY, 300))
    _, manifest = vault.commit("t", head, draft(one, 300, seed=1))
    value = client.hget("shiori:{t}:head:s", field) or b"0"
    client.hset("shiori:{t}:head:s", field, bytes([value[0] ^ 1]) + value[1:])
    other = fresh()
    assert other.at("t", other.head("t", "s").view).digest == manifest.digest
    other.heads.begin("t", "s")


# --- provenance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", [(299, "0" * 64), (300, "1" * 64), (0, "0" * 64), (301, None)])
def test_a_state_of_another_place_is_refused(vault: Vault, client: redis.Redis, tag: tuple[int, str | None]) -> None:
    head, wrong = opened(vault), draft(EMPTY, 300)
    assert wrong.state
    tags = (*wrong.state.tags[:-1], (tag[0], tag[1] or wrong.state.digest))
    with pytest.raises(errors.ShioriError, match="refused"):
        vault.commit("t", head, replace(wrong, state=replace(wrong.state, tags=tags)))
    assert vault.head("t", "s").position == 0 and not blocks(client)


def test_a_snapshot_of_another_position_does_not_open(hot: Vault, fresh: Callable[[], Vault]) -> None:
    """Its name says where it belongs."""
    head, one = hot.commit("t", opened(hot), draft(EMPTY, 300))
    _, two = hot.commit("t", head, draft(one, 300, seed=1))
    early, late = two.rungs
    swapped = tuple(replace(a, name=b.name) for a, b in zip(late.parts, early.parts, strict=True))
    forged = replace(two, rungs=(early, replace(late, parts=tuple(replace(p, first=p.first + 1) for p in swapped))))
    with pytest.raises(Damaged):
        whole(fresh(), forged, 1)


# --- heads ------------------------------------------------------------------------------------------------------------


def test_a_writer_that_was_overtaken_is_refused(vault: Vault) -> None:
    slow = opened(vault)
    fast = vault.heads.begin("t", "s")
    with pytest.raises(errors.HeadMoved, match="another writer"):
        vault.commit("t", slow, draft(EMPTY, 300))
    vault.commit("t", fast, draft(EMPTY, 300, seed=1))


def test_a_draft_of_an_overtaken_writer_is_refused_too(vault: Vault) -> None:
    slow = opened(vault)
    vault.save_draft("t", slow, draft(EMPTY, 256))
    vault.heads.begin("t", "s")
    with pytest.raises(errors.HeadMoved, match="another writer"):
        vault.save_draft("t", slow, draft(EMPTY, 512, seed=1))


def test_a_writer_with_an_old_parent_is_refused(vault: Vault) -> None:
    head = opened(vault)
    vault.commit("t", head, draft(EMPTY, 300))
    with pytest.raises(errors.HeadMoved):
        vault.commit("t", head, draft(EMPTY, 400))


def test_epochs_never_go_back_not_even_with_redis(vault: Vault, client: redis.Redis) -> None:
    first = opened(vault)
    client.hset("shiori:{t}:head:s", "epoch", 1)  # a failover that lost the last increment
    assert vault.heads.begin("t", "s").epoch > first.epoch


def test_bookmarks_go_along_with_the_head(vault: Vault, keeper: Keeper, client: redis.Redis) -> None:
    """So superseded manifests, their last pages and snapshots need not be kept for them."""
    head, manifest = opened(vault), EMPTY
    for n in range(5):
        head, manifest = vault.commit("t", head, draft(manifest, 300, seed=n), bookmark=f"m{n}")
    marks = vault.marks("t", "s")
    assert [(m.name, m.view.position) for m in marks] == [(f"m{n}", 300 * (n + 1)) for n in range(5)]
    assert len({m.view.manifest for m in marks[:4]}) == 1
    keeper.collect("t")
    for n, mark in enumerate(marks):
        cut = vault.at("t", vault.marks("t", "s")[n].view)
        assert (cut.position, cut.digest) == (mark.view.position, mark.view.digest)
        assert whole(vault, cut, seed=n)


def test_a_rewind_keeps_what_it_leaves_until_its_lease_ends(vault: Vault, keeper: Keeper) -> None:
    head, manifest = vault.commit("t", opened(vault), draft(EMPTY, 300), bookmark="one")
    head, later = vault.commit("t", head, draft(manifest, 300, seed=1))
    mark = vault.marks("t", "s")[0].view
    vault.heads.move("t", vault.head("t", "s"), mark, "test", lease_ms=60_000)
    (past,) = vault.bookmarks.history("t", "s")
    assert past.view.digest == later.digest
    vault.commit("t", vault.heads.begin("t", "s"), draft(vault.at("t", mark), 100, seed=2))
    keeper.collect("t")
    assert whole(vault, vault.at("t", past.view), seed=1)
    back = vault.heads.move("t", vault.head("t", "s"), past.view, "back", lease_ms=0)
    assert back.digest == later.digest
    assert [p.view.digest for p in vault.bookmarks.history("t", "s")] == [later.digest]  # the other one's lease is over


def test_a_rewind_fences_the_write_that_began_before_it(vault: Vault) -> None:
    head, manifest = vault.commit("t", opened(vault), draft(EMPTY, 300), bookmark="one")
    vault.heads.move("t", head, vault.marks("t", "s")[0].view, "test", 0)
    with pytest.raises(errors.HeadMoved):
        vault.commit("t", head, draft(manifest, 300))


def test_fork_and_mark_may_be_said_twice_but_not_of_two_things(vault: Vault) -> None:
    head, manifest = vault.commit("t", opened(vault), draft(EMPTY, 300), bookmark="one")
    assert vault.heads.fork("t", "s", "f", "").view == vault.heads.fork("t", "s", "f", "").view
    assert vault.bookmarks.put("t", "s", "two").view == vault.bookmarks.put("t", "s", "two").view
    vault.commit("t", head, draft(manifest, 10, seed=1))
    for again in (lambda: vault.heads.fork("t", "s", "f", ""), lambda: vault.bookmarks.put("t", "s", "two")):
        with pytest.raises(errors.AlreadyExists):
            again()
    assert vault.heads.fork("t", "s", "g", "one").position == 300


# --- rungs ------------------------------------------------------------------------------------------------------------


def test_rungs_are_thinned_by_what_losing_one_costs() -> None:
    part = Ref("snapshot", "x", 0, 1, 1000)
    rungs = tuple(Rung(n * 100, f"{n}", float(n * n), (part,)) for n in range(1, 101))
    kept = thinned(rungs, pages_bytes=100_000, pinned=frozenset({300}))
    assert len(kept) == 20 and kept[-2:] == rungs[-2:] and rungs[2] in kept
    gaps = [b.seconds - a.seconds for a, b in itertools.pairwise(kept)]
    assert max(gaps[3:-2]) < 4 * min(gaps[3:-2])  # evenly in seconds, not in tokens
    assert thinned(rungs[:16], 0, frozenset()) == rungs[:16]


# --- away -------------------------------------------------------------------------------------------------------------


def test_lost_blocks_under_a_live_writer_are_noticed(vault: Vault, client: redis.Redis) -> None:
    head, manifest = vault.commit("t", opened(vault), draft(EMPTY, 700))
    client.delete(block_key("t", manifest.pages[0].name))
    with pytest.raises(Damaged):
        vault.commit("t", head, draft(manifest, 100, seed=1))
    in_full = replace(draft(manifest, 100, seed=1), base=EMPTY, state=state(800, 0, 1))
    _, again = vault.commit("t", head, in_full)
    assert whole(vault, again, seed=1)


# --- a writer that is killed at its n-th command ----------------------------------------------------------------------


def test_killed_writers_leave_no_broken_head(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    head, manifest = vault.commit("t", opened(vault), draft(EMPTY, 300))
    seed = -1
    for alive in range(0, 9):
        with suppress(Killed), monkeypatch.context() as patch:
            patch.setattr(vault.heads, "_run", dying(vault.heads._run, alive // 3))
            patch.setattr(vault.store, "put", dying(vault.store.put, alive))
            vault.commit("t", vault.heads.begin("t", "s"), draft(manifest, 600, seed=alive))
            seed = alive
        head = vault.head("t", "s")
        manifest = vault.at("t", head.view)
        assert whole(vault, manifest, seed=max(seed, 0))
    assert head.position > 300  # the last ones lived long enough


class Killed(BaseException):
    pass


def dying(inner: Any, alive: int) -> Any:
    left = [alive]

    def command(*args: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return inner(*args, **options)

    return command
