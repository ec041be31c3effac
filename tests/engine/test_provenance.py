"""The ways in which real engines gave out a wrong state, one by one, done to ours: export refuses each of them."""

from dataclasses import replace

import pytest
import torch

import engine.runner
from engine import Done, Engine, ProvenanceError, Tag
from engine.digest import START
from engine.model import Batch, Kda, Piece
from engine.pools import Pools
from engine.rows import StateRows
from engine.sequences import Sequence
from engine.testing import tiny_model
from tests.engine.driving import engine_of, read, run, some_ids, state

MODEL = tiny_model()
TOKENS = 300  # two full pages of 128, and a third


@pytest.fixture
def small():
    return engine_of(MODEL)


@pytest.fixture
def s(small) -> Sequence:
    return reading(small, seed=1)


@pytest.fixture
def other(small) -> Sequence:
    """As long as ``s``: only its digest and its numbers differ."""
    return reading(small, seed=2)


def reading(engine: Engine, seed: int) -> Sequence:
    sequence = engine.open()
    read(engine, sequence, some_ids(TOKENS, seed))
    return engine._sequences[sequence]


def refused(engine: Engine, sequence: Sequence, says: str) -> None:
    with pytest.raises(ProvenanceError, match=says):
        engine.export(sequence.id)


def swap(rows, a: object, b: object) -> None:
    """Exchanges two rows, or lists of them, of a tensor or a list."""
    kept = rows[a].clone() if isinstance(rows, torch.Tensor) else rows[a]
    rows[a] = rows[b]
    rows[b] = kept


def test_what_is_exported_says_of_itself_what_its_sequence_says(small, s, other):
    tag = Tag(TOKENS, small.digest(s.id))
    exported = small.export(s.id, first=100)
    assert (exported.position, exported.digest) == (tag.position, tag.digest)
    assert exported.tags == (tag,) * 4 and tag != other.tag  # three KDA layers and an MLA layer
    assert torch.equal(exported.latents, small.latents(s.id, 100, TOKENS))
    assert all(torch.equal(x, exported.tensors[name]) for name, x in small.snapshot(s.id).tensors.items())


def test_an_export_is_a_copy(small, s):
    before = small.export(s.id)
    kept = {name: x.clone() for name, x in before.tensors.items()}, before.latents.clone()
    read(small, s.id, some_ids(70, seed=3))
    assert all(torch.equal(x, before.tensors[name]) for name, x in kept[0].items())
    assert torch.equal(kept[1], before.latents)


def test_nothing_read_is_a_reading_too(small):
    exported = small.export(small.open())
    assert exported.tags == (Tag(0, START),) * 4 and exported.latents.shape == (1, 0, 32)
    assert not any(x.any() for x in exported.tensors.values())


# the copy is taken from the wrong place


def test_the_neighbours_slot(small, s, other, monkeypatch):
    real = Pools.copy_state
    monkeypatch.setattr(Pools, "copy_state", lambda pools, slot: real(pools, other.slot))
    refused(small, s, f"KDA layer 0, slot {s.slot} is at position 300, digest {other.digest.hex()[:16]}")


def test_the_neighbours_pages(small, s, other, monkeypatch):
    real = Pools.gather
    monkeypatch.setattr(Pools, "gather", lambda pools, table, *range: real(pools, other.pages, *range))
    refused(small, s, f"MLA layer 2, page {s.pages[0]} is at position 128")


@pytest.mark.parametrize("name, says", [("kda", "KDA layer 0"), ("conv", "KDA layer 0"), ("latents", "MLA layer 2")])
def test_the_neighbours_numbers_under_the_own_tag(small, s, other, monkeypatch, name, says):
    """An index that is off by one, where the numbers are read and nowhere else."""
    monkeypatch.setattr(small.pools, name, getattr(small.pools, name).roll(1, 1))
    refused(small, s, f"{says}.*the numbers are not")


@pytest.mark.parametrize("off", [-64, -1, 1, 64, 128])
@pytest.mark.parametrize("with_book", [False, True])
def test_a_position_that_is_off(small, s, off, with_book):
    s.position += off
    if with_book:
        s.book[-1] = s.tag
    refused(small, s, f"at position {TOKENS + off}")


def test_the_digest_of_somebody_else(small, s, other):
    s.digest, s.book = other.digest, list(other.book)
    refused(small, s, "MLA layer 2, page")


# the numbers moved


def test_two_slots_exchanged(small, s, other):
    spare = small._cache.take_slot()
    for source, target in ((s.slot, spare), (other.slot, s.slot), (spare, other.slot)):
        small.pools.copy_slot(source, target)
    for sequence in (s, other):
        refused(small, sequence, f"KDA layer 0, slot {sequence.slot} is at")


@pytest.mark.parametrize("name", ["kda", "conv"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_two_slots_exchanged_in_one_layer_behind_the_tags(small, s, other, name, layer):
    swap(getattr(small.pools, name)[layer], s.slot, other.slot)
    refused(small, s, f"{small.pools.states[layer].name}, slot {s.slot}.*the numbers are not")


def test_a_slot_blanked(small, s):
    small.pools.zero_slot(s.slot)
    refused(small, s, "is at position 0, digest 0000000000000000; its sequence at position 300")


@pytest.mark.parametrize("name", ["kda", "conv"])
def test_a_slot_blanked_behind_its_tag(small, s, name):
    getattr(small.pools, name)[1, s.slot] = 0
    refused(small, s, "KDA layer 1")


def test_two_layers_exchanged(small, s):
    """Also when their seals go along: the two tags are the same, but every layer is sealed at other places."""
    pools = small.pools
    swap(pools.kda[:, s.slot], 0, 1)
    refused(small, s, "KDA layer 0")
    swap(pools.slot_seals["kda"].kept[:, s.slot], 0, 1)
    refused(small, s, "KDA layer 0")


@pytest.mark.parametrize("name", ["kda", "conv"])
def test_the_state_of_before_the_last_chunk(name):
    engine = engine_of(MODEL, prefill_tokens_per_step=64)
    s = engine._sequences[engine.open()]
    engine.read(s.id, some_ids(128))
    engine.step()
    stale, pool = engine._sequences[engine.fork(s.id)], getattr(engine.pools, name)
    run(engine)
    kept = pool[:, s.slot].clone()
    pool[:, s.slot] = pool[:, stale.slot]
    refused(engine, s, "KDA layer 0.*the numbers are not")
    pool[:, s.slot] = kept
    engine.export(s.id)
    engine.pools.copy_slot(stale.slot, s.slot)
    refused(engine, s, "is at position 64.*its sequence at position 128")


def test_the_page_of_before_the_last_chunk(small):
    s = reading(small, seed=1)
    stale = small._sequences[small.fork(s.id)]
    read(small, s.id, some_ids(20, seed=3))
    kept = small.pools.latents[:, s.pages[2]].clone()
    small.pools.latents[:, s.pages[2]] = small.pools.latents[:, stale.pages[2]]
    refused(small, s, f"MLA layer 2, page {s.pages[2]}.*the numbers are not")
    small.pools.latents[:, s.pages[2]] = kept
    small.export(s.id)
    small.pools.copy_page(stale.pages[2], s.pages[2])
    refused(small, s, f"MLA layer 2, page {s.pages[2]} is at position 300.* its sequence at position 320")


def test_a_page_copied_over(small, s, other):
    small.pools.copy_page(other.pages[1], s.pages[1])
    refused(small, s, f"MLA layer 2, page {s.pages[1]} is at position 256")


@pytest.mark.parametrize("first", [0, 256, TOKENS])
def test_an_entry_of_the_page_table_exchanged(small, s, first):
    """Also when none of those pages is exported."""
    swap(s.pages, 0, 1)
    with pytest.raises(ProvenanceError, match="MLA layer 2, page"):
        small.export(s.id, first)


# forks, restores


def test_a_fork_of_the_wrong_slot(small, s, other, monkeypatch):
    real = Pools.copy_slot
    monkeypatch.setattr(Pools, "copy_slot", lambda pools, source, target: real(pools, other.slot, target))
    refused(small, small._sequences[small.fork(s.id)], "KDA layer 0")


def test_a_fork_of_the_wrong_page(small, s, other, monkeypatch):
    real = Pools.copy_page
    monkeypatch.setattr(Pools, "copy_page", lambda pools, source, target: real(pools, other.pages[2], target))
    refused(small, small._sequences[small.fork(s.id)], "MLA layer 2")


def test_a_fork_that_shares_the_wrong_pages(small, s, other):
    child = small._sequences[small.fork(s.id)]
    child.pages[:2] = other.pages[:2]
    refused(small, child, "MLA layer 2")


@pytest.mark.parametrize("off", [-64, 64, 128])
def test_a_restore_under_another_position(small, s, off):
    target = engine_of(MODEL)
    exported = small.export(s.id)
    restored = target._sequences[target.restore(small.snapshot(s.id), exported.latents)]
    assert target.export(restored.id).tags == exported.tags
    restored.position, restored.book = TOKENS + off, restored.book[: -(-(TOKENS + off) // 128)]
    refused(target, restored, "MLA layer|the book")


def test_a_slot_that_was_not_cleared_for_its_next_owner(small, s, monkeypatch):
    small.close(s.id)
    monkeypatch.setattr(Pools, "zero_slot", lambda pools, slot: None)
    heir = small._sequences[small.open()]
    assert heir.slot == s.slot
    refused(small, heir, "is at position 300.*its sequence at position 0")
    small.read(heir.id, some_ids(10))
    (done,) = run(small)
    assert done.reason == "error" and "ProvenanceError: KDA layer 0" in done.error


# the forward


def feed_one_more(engine: Engine, s: Sequence) -> None:
    """A forward that nobody books: a token drafted and rejected, a step run twice."""
    after = Tag(s.position + 1, bytes([7] * 32))
    piece = Piece(slice(0, 1), s.slot, s.pages, torch.tensor(s.pages), s.tag, after)
    with torch.inference_mode():
        engine.model.forward(Batch(torch.tensor([5]), (piece,)), engine.pools)


def test_a_token_fed_and_not_booked(small, s):
    feed_one_more(small, s)
    refused(small, s, "is at position 301.*its sequence at position 300")


def test_padding_that_was_fed(small, s, monkeypatch):
    """The batch says 20 tokens and hands 21 rows to the layers."""
    real = engine.runner.pack

    def longer(*args):
        batch = real(*args)
        piece = replace(batch.pieces[0], rows=slice(0, 21))
        return Batch(batch.ids, (piece,))

    monkeypatch.setattr(engine.runner, "pack", longer)
    small.read(s.id, some_ids(20))
    run(small)
    refused(small, s, "is at position 321.*its sequence at position 320")


def test_a_layer_left_out(small, s, monkeypatch):
    real, second = Kda.forward, MODEL.layers[1].mixer
    monkeypatch.setattr(Kda, "forward", lambda mixer, u, *rest: u if mixer is second else real(mixer, u, *rest))
    read(small, s.id, some_ids(20))
    refused(small, s, "KDA layer 1, slot . is at position 300.*its sequence at position 320")


SPOILED = {
    "slot": lambda e, s, other: e.pools.copy_slot(other.slot, s.slot),
    "page": lambda e, s, other: e.pools.copy_page(other.pages[2], s.pages[2]),
    "state behind its tag": lambda e, s, other: swap(e.pools.kda[1], s.slot, other.slot),
    "convolution behind its tag": lambda e, s, other: swap(e.pools.conv[2], s.slot, other.slot),
    "page behind its tag": lambda e, s, other: swap(e.pools.latents[0], s.pages[2], other.pages[2]),
    "unbooked": lambda e, s, other: feed_one_more(e, s),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED.keys())
def test_a_forward_does_not_start_from_a_wrong_state(small, s, other, spoil):
    """Else the next forward would write a right tag over a wrong one, and nothing would show."""
    spoil(small, s, other)
    request = small.read(s.id, some_ids(100))
    (done,) = [event for event in run(small) if isinstance(event, Done)]
    assert (done.request, done.reason) == (request, "error") and "ProvenanceError" in done.error
    assert len(small._sequences) == 1  # the sequence is closed; its neighbour is not


def test_full_pages_that_went_wrong_show_after_reading_on(small, s, other):
    small.pools.copy_page(other.pages[0], s.pages[0])
    read(small, s.id, some_ids(100))
    refused(small, s, "MLA layer 2, page")


def test_a_refused_export_changes_nothing(small, s, other):
    before = state(small, other.id)
    swap(small.pools.kda[0], s.slot, other.slot)
    refused(small, s, "KDA layer 0")
    swap(small.pools.kda[0], s.slot, other.slot)
    assert all(torch.equal(x, before[name]) for name, x in state(small, other.id).items())
    small.check_idle()


def misplacing(real, slot):
    def put(rows, own, kda, conv, tag):
        kept = rows.tags[slot]
        real(rows, slot, kda, conv, tag)
        rows.tags[own], rows.tags[slot] = tag, kept

    return put


def test_a_forward_that_writes_into_the_neighbours_slot(small, s, other, monkeypatch):
    """It shows where the numbers went, not where they should have gone."""
    real = StateRows.put
    monkeypatch.setattr(StateRows, "put", misplacing(real, other.slot))
    read(small, s.id, some_ids(20))
    monkeypatch.setattr(StateRows, "put", real)
    refused(small, other, "KDA layer 0.*the numbers are not")
