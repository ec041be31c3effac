"""The vault against a real Redis: what is written comes back or is refused; no head names what is not there."""

import random
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import redis
import torch
from safetensors.torch import load

from services import errors
from services.inference import blocks as b
from services.inference.heads import Head, block_key, manifest_key
from services.inference.vault import Draft, State, Vault

PAGE = 256


@pytest.fixture
def vault(store: redis.Redis) -> Vault:
    return Vault(store)


def draft(base: b.Manifest, count: int, seed: int = 0) -> Draft:
    """`count` more tokens on top of `base`, with random state."""
    noise = torch.Generator().manual_seed(seed)
    position = base.position + count
    first = len(base.full_pages()) * PAGE
    latents = torch.randn(2, position - first, 32, generator=noise)
    tensors = {"kda": torch.randn(3, 2, 16, 16, generator=noise), "conv": torch.randn(3, 3, 96, generator=noise)}
    state = State(position, f"{seed:02x}{position:062x}", tensors, latents)
    return Draft(base, [(f"part {seed}", list(range(count)))], state)


def opened(vault: Vault, session: str = "s", tenant: str = "t") -> Head:
    vault.heads.open(tenant, session, "finger")
    return vault.heads.begin(tenant, session)


EMPTY = b.Manifest("finger", "tok")


def test_a_reading_comes_back_bit_for_bit(vault: Vault) -> None:
    wanted = draft(EMPTY, 700)
    head, manifest = vault.commit("t", opened(vault), wanted)
    assert vault.manifest("t", head.manifest) == manifest
    state = vault.state("t", manifest)
    assert torch.equal(state.latents, wanted.state.latents)
    assert all(torch.equal(state.tensors[name], wanted.state.tensors[name]) for name in ("kda", "conv"))
    assert vault.log("t", manifest) == wanted.segments


def test_bfloat16_latents_come_back_too(vault: Vault) -> None:
    plain = draft(EMPTY, 300)
    wanted = replace(plain, state=replace(plain.state, latents=plain.state.latents.bfloat16()))
    _, manifest = vault.commit("t", opened(vault), wanted)
    assert torch.equal(vault.state("t", manifest).latents, wanted.state.latents)


def test_a_page_is_a_safetensors_file(vault: Vault, store: redis.Redis) -> None:
    wanted = draft(EMPTY, 300)
    _, manifest = vault.commit("t", opened(vault), wanted)
    data = store.get(block_key("t", manifest.pages[1].name)) or b""
    assert torch.equal(load(data[64:])["latents"], wanted.state.latents[:, 256:])


def test_full_pages_are_written_once(vault: Vault, store: redis.Redis) -> None:
    head, one = vault.commit("t", opened(vault), draft(EMPTY, 700))
    before = set(store.keys())
    head, two = vault.commit("t", head, draft(one, 100, seed=1))
    assert two.pages[:2] == one.pages[:2]
    assert [page.last for page in two.pages] == [256, 512, 768, 800]
    new = [key for key in set(store.keys()) - before if b":blk:" in key]
    assert len(new) == 2 + 1 + 1  # two pages, the snapshot, the log


def test_no_value_is_larger_than_its_class_or_a_power_of_two(vault: Vault, store: redis.Redis) -> None:
    big = draft(EMPTY, 300)
    tensors = {"kda": torch.randn(9, 4, 128, 128), "conv": torch.zeros(9, 3, 64)}
    vault.commit("t", opened(vault), replace(big, state=replace(big.state, tensors=tensors)))
    sizes = [store.strlen(key) for key in store.keys("*blk*")]
    assert max(sizes) <= 2 * 1024 * 1024 - 64
    assert not any(size & (size - 1) == 0 for size in sizes)
    block = b._block("log", "n", (0, 1), bytes(1024 - 64))
    assert len(block.data) == 1024 + 64


@pytest.mark.parametrize("kind", ["page", "snapshot", "log"])
@pytest.mark.parametrize("harm", ["flip", "cut", "swap", "delete"])
def test_every_harm_to_a_block_is_seen(vault: Vault, store: redis.Redis, kind: str, harm: str) -> None:
    """And the harmed block is out of the way, so that it can be written again."""
    head, one = vault.commit("t", opened(vault), draft(EMPTY, 700))
    _, manifest = vault.commit("t", head, draft(one, 700, seed=1))
    refs = [ref for ref in manifest.refs() if ref.kind == kind]
    key = block_key("t", refs[0].name)
    hurt(store, key, harm, block_key("t", refs[-1].name))
    with pytest.raises(b.Damaged):
        vault.log("t", manifest) if kind == "log" else vault.state("t", manifest)
    assert not store.exists(key)


def hurt(store: redis.Redis, key: str, harm: str, other: str = "") -> None:
    data: Any = bytearray(store.get(key) or b"")
    if harm == "delete":
        store.delete(key)
    elif harm == "swap" and other != key:
        store.set(key, store.get(other) or b"")
    elif harm == "cut":
        store.set(key, bytes(data[:-1]))
    else:
        data[random.Random(key).randrange(len(data))] ^= 1
        store.set(key, bytes(data))


def test_a_harmed_manifest_is_seen(vault: Vault, store: redis.Redis) -> None:
    head, _ = vault.commit("t", opened(vault), draft(EMPTY, 300))
    key = manifest_key("t", head.manifest)
    store.set(key, (store.get(key) or b"").replace(b'"position":300', b'"position":301'))
    with pytest.raises(b.Damaged):
        vault.manifest("t", head.manifest)


def test_equal_texts_of_two_tenants_share_no_name(vault: Vault) -> None:
    _, one = vault.commit("t", opened(vault), draft(EMPTY, 300))
    _, two = vault.commit("u", opened(vault, tenant="u"), draft(EMPTY, 300))
    assert not {ref.name for ref in one.refs()} & {ref.name for ref in two.refs()}
    assert [ref.digest for ref in one.refs()] == [ref.digest for ref in two.refs()]


def test_other_bytes_under_a_taken_name_get_a_name_of_their_own(vault: Vault) -> None:
    """Two engines that disagree must not overwrite each other."""
    one, two = draft(EMPTY, 300), draft(EMPTY, 300, seed=1)
    two = replace(two, state=replace(two.state, digest=one.state.digest))
    _, first = vault.commit("t", opened(vault, "a"), one)
    _, second = vault.commit("t", opened(vault, "b"), two)
    assert torch.equal(vault.state("t", first).latents, one.state.latents)
    assert torch.equal(vault.state("t", second).latents, two.state.latents)


# --- heads ------------------------------------------------------------------------------------------------------------


def test_a_write_that_breaks_off_before_the_head_moves_changes_nothing(vault: Vault) -> None:
    head, manifest = vault.commit("t", opened(vault), draft(EMPTY, 300))
    vault._write_manifest("t", vault._write_draft("t", draft(manifest, 300, seed=1)))
    assert vault.heads.get("t", "s") == head
    assert vault.sweep("t") > 0
    assert vault.state("t", vault.manifest("t", head.manifest)).position == 300


def test_a_writer_that_was_overtaken_is_refused(vault: Vault) -> None:
    slow = opened(vault)
    fast = vault.heads.begin("t", "s")
    with pytest.raises(errors.HeadMoved, match="another writer"):
        vault.commit("t", slow, draft(EMPTY, 300))
    vault.commit("t", fast, draft(EMPTY, 300, seed=1))


def test_a_writer_with_an_old_parent_is_refused(vault: Vault) -> None:
    head = opened(vault)
    vault.commit("t", head, draft(EMPTY, 300))
    with pytest.raises(errors.HeadMoved):
        vault.commit("t", head, draft(EMPTY, 400))


def test_a_rewind_fences_the_write_that_began_before_it(vault: Vault) -> None:
    head, manifest = vault.commit("t", opened(vault), draft(EMPTY, 300), bookmark="one")
    vault.heads.rewind("t", "s", "one")
    with pytest.raises(errors.HeadMoved):
        vault.commit("t", head, draft(manifest, 300))


def test_a_taken_bookmark_moves_no_head(vault: Vault) -> None:
    head, manifest = vault.commit("t", opened(vault), draft(EMPTY, 300), bookmark="one")
    with pytest.raises(errors.AlreadyExists):
        vault.commit("t", head, draft(manifest, 300), bookmark="one")
    assert vault.heads.get("t", "s").position == 300


def test_fork_and_mark_may_be_said_twice_but_not_of_two_things(vault: Vault) -> None:
    head, manifest = vault.commit("t", opened(vault), draft(EMPTY, 300), bookmark="one")
    assert vault.heads.fork("t", "s", "f", "") == vault.heads.fork("t", "s", "f", "")
    assert vault.heads.mark("t", "s", "two") == vault.heads.mark("t", "s", "two")
    vault.commit("t", head, draft(manifest, 10, seed=1))
    for again in (lambda: vault.heads.fork("t", "s", "f", ""), lambda: vault.heads.mark("t", "s", "two")):
        with pytest.raises(errors.AlreadyExists):
            again()
    assert vault.heads.fork("t", "s", "g", "one").position == 300


# --- away -------------------------------------------------------------------------------------------------------------


def test_delete_frees_what_no_fork_names(vault: Vault, store: redis.Redis) -> None:
    head, manifest = vault.commit("t", opened(vault), draft(EMPTY, 700), bookmark="one")
    vault.heads.fork("t", "s", "fork", "one")
    vault.commit("t", head, draft(manifest, 600, seed=1))
    freed = vault.delete("t", "s")
    assert freed > 0
    fork = vault.heads.get("t", "fork")
    assert vault.state("t", vault.manifest("t", fork.manifest)).position == 700
    assert vault.log("t", vault.manifest("t", fork.manifest))
    vault.delete("t", "fork")
    assert [key for key in store.scan_iter() if b"counters" not in key] == []


def test_sweep_takes_what_is_superseded_and_keeps_parent_and_bookmarks(vault: Vault) -> None:
    head, manifest = opened(vault), EMPTY
    saved = []
    for n in range(5):
        head, manifest = vault.commit("t", head, draft(manifest, 300, seed=n), bookmark="mark" if n == 1 else "")
        saved.append(head.manifest)
    assert vault.sweep("t") > 0
    for n in (1, 3, 4):
        assert vault.state("t", vault.manifest("t", saved[n])).position == 300 * (n + 1)
    for n in (0, 2):
        with pytest.raises(b.Damaged):
            vault.manifest("t", saved[n])
    assert vault.sweep("t") == 0


def test_a_sweep_between_blocks_and_head_makes_the_writer_write_again(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, write, swept = opened(vault), vault._write_manifest, []

    def sweep_first(tenant: str, manifest: b.Manifest) -> str:
        name = write(tenant, manifest)
        if not swept:
            swept.append(vault.sweep(tenant))
        return name

    monkeypatch.setattr(vault, "_write_manifest", sweep_first)
    head, _ = vault.commit("t", head, draft(EMPTY, 700))
    assert swept[0] > 0
    assert vault.state("t", vault.manifest("t", head.manifest)).position == 700


def test_a_head_that_moves_while_marking_stops_the_unlink(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    head, manifest = vault.commit("t", opened(vault), draft(EMPTY, 300), bookmark="one")
    vault.commit("t", head, draft(manifest, 300, seed=1))
    reachable, forked = vault._reachable, []

    def fork_after(tenant: str) -> set[bytes]:
        found = reachable(tenant)
        if not forked:
            forked.append(vault.heads.fork("t", "s", "late", "one"))
        return found

    monkeypatch.setattr(vault, "_reachable", fork_after)
    vault.sweep("t")
    assert vault.state("t", vault.manifest("t", forked[0].manifest)).position == 300


def test_killed_writers_leave_no_broken_head(vault: Vault, store: redis.Redis) -> None:
    """A writer that dies after any number of its writes: the head is the old or the new reading, whole."""
    head, manifest = vault.commit("t", opened(vault), draft(EMPTY, 300))
    for alive in range(0, 9):
        dying = Vault(Dying(store, alive))  # type: ignore[arg-type]
        with suppress(Killed):
            dying.commit("t", vault.heads.begin("t", "s"), draft(manifest, 600, seed=alive))
        head = vault.heads.get("t", "s")
        manifest = vault.manifest("t", head.manifest)
        assert vault.state("t", manifest).position == head.position
    assert head.position > 300  # the last ones lived long enough


class Killed(BaseException):
    pass


class Dying:
    """A Redis client whose process is killed at its n-th command."""

    def __init__(self, client: redis.Redis, alive: int) -> None:
        self._client, self._alive = client, alive

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._client, name)
        if not callable(inner) or name == "register_script":
            return inner

        def command(*args: Any, **options: Any) -> Any:
            self._alive -= 1
            if self._alive < 0:
                raise Killed
            return inner(*args, **options)

        return command
