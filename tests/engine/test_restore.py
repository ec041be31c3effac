"""State in by pieces, state out between two steps."""

from itertools import pairwise

import pytest
import torch

from engine import EngineFull, SamplingParams, SequenceBusy, Snapshot, SnapshotMismatch
from engine.testing import tiny_model
from tests.engine.driving import engine_of, poison, read, run, some_ids, state

MODEL = tiny_model()
TOKENS = 300


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def source(tokens=TOKENS):
    engine = engine_of(MODEL)
    sequence = engine.open()
    if tokens:
        read(engine, sequence, some_ids(tokens))
    return engine, sequence, engine.export(sequence)


def snapshot_of(exported):
    return Snapshot(exported.position, exported.digest, exported.tensors)


def restore(engine, exported, cuts, order=1):
    sequence = engine.begin_restore(exported.position)
    edges = [0, *cuts, exported.position]
    for first, stop in list(pairwise(edges))[::order]:
        engine.put_latents(sequence, first, exported.latents[:, first:stop])
    engine.finish_restore(sequence, snapshot_of(exported))
    return sequence


@pytest.mark.parametrize("cuts", [[], [128, 256], [1, 127, 129, 299], [200], [0, 0]])
@pytest.mark.parametrize("order", [1, -1])
def test_latents_may_be_cut_anywhere_and_come_in_any_order(cuts, order):
    old, sequence, exported = source()
    engine = engine_of(MODEL)
    restored = restore(engine, exported, cuts, order)
    found = engine.export(restored)
    assert same(found.tensors, exported.tensors) and torch.equal(found.latents, exported.latents)
    assert (found.position, found.digest, found.tags) == (exported.position, exported.digest, exported.tags)
    read(old, sequence, some_ids(70, seed=2))
    read(engine, restored, some_ids(70, seed=2))
    assert same(state(engine, restored), state(old, sequence))


def test_nothing_can_be_restored():
    _, _, exported = source(0)
    engine = engine_of(MODEL)
    sequence = restore(engine, exported, [])
    read(engine, sequence, some_ids(70))
    old, plain, _ = source(0)
    read(old, plain, some_ids(70))
    assert same(state(engine, sequence), state(old, plain))


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_an_export_in_the_middle_of_a_read_goes_on_elsewhere_to_the_same_bits(stop_after):
    old, ids = engine_of(MODEL, prefill_tokens_per_step=64), some_ids(250, seed=5)
    sequence = old.open()
    read(old, sequence, some_ids(37))
    old.read(sequence, ids)
    old.read(old.open(), some_ids(200, seed=6))  # company
    while old.position(sequence) < 37 + 64 * stop_after:
        old.step()
    exported = old.export(sequence)
    assert exported.position == 37 + 64 * stop_after
    engine = engine_of(MODEL)
    restored = restore(engine, exported, [100])
    read(engine, restored, ids[64 * stop_after :])
    run(old)
    assert old.digest(sequence) == engine.digest(restored)
    assert same(state(old, sequence), state(engine, restored)) and "logits" in state(old, sequence)


def test_others_run_while_one_is_restored():
    old, sequence, exported = source()
    engine = engine_of(MODEL, prefill_tokens_per_step=64)
    other = engine.open()
    engine.read(other, some_ids(TOKENS))
    restored = engine.begin_restore(TOKENS)
    for first in range(0, TOKENS, 75):
        engine.put_latents(restored, first, exported.latents[:, first : first + 75])
        engine.step()
        engine.check_idle()
        poison(engine)
    engine.finish_restore(restored, snapshot_of(exported))
    run(engine)
    assert same(state(engine, other), state(old, sequence))
    assert same(engine.export(restored).tensors, exported.tensors)


def test_a_sequence_that_is_being_restored_is_of_no_use_yet():
    _, _, exported = source()
    engine = engine_of(MODEL)
    sequence = engine.begin_restore(TOKENS)
    calls = [engine.position, engine.digest, engine.fork, engine.export, engine.snapshot]
    calls += [lambda s: engine.latents(s, 0, 1), lambda s: engine.read(s, [1])]
    calls += [lambda s: engine.generate(s, SamplingParams())]
    for call in calls:
        with pytest.raises(SequenceBusy, match="being restored: finish_restore or close it"):
            call(sequence)
    engine.check_idle()
    engine.put_latents(sequence, 0, exported.latents)
    engine.finish_restore(sequence, snapshot_of(exported))
    assert engine.position(sequence) == TOKENS
    with pytest.raises(ValueError, match="not being restored"):
        engine.finish_restore(sequence, snapshot_of(exported))
    with pytest.raises(ValueError, match="not being restored"):
        engine.put_latents(sequence, 0, exported.latents)


@pytest.mark.parametrize(
    "first, spoil, says",
    [
        (0, lambda x: x.bfloat16(), "bfloat16"),
        (0, lambda x: x[:, :, :-1], "31"),
        (0, lambda x: x[0], "expected"),
        (0, lambda x: torch.cat([x, x]), "expected"),
        (1, lambda x: x, "positions 1..301; the restore began with 300"),
        (-1, lambda x: x[:, :5], "positions -1..4"),
    ],
)
def test_latents_that_do_not_fit_are_refused(first, spoil, says):
    _, _, exported = source()
    engine = engine_of(MODEL)
    sequence = engine.begin_restore(TOKENS)
    with pytest.raises(SnapshotMismatch, match=says):
        engine.put_latents(sequence, first, spoil(exported.latents))
    with pytest.raises(SnapshotMismatch, match="position 0 were never put"):
        engine.finish_restore(sequence, snapshot_of(exported))


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda s: Snapshot(s.position - 1, s.digest, s.tensors), "a snapshot at 299; the restore began with 300"),
        (lambda s: Snapshot(s.position, s.digest, {"kda": s.tensors["kda"]}), "conv"),
        (lambda s: Snapshot(s.position, bytes(32), s.tensors), "do not belong together"),
    ],
)
def test_a_restore_that_fails_leaves_nothing_but_a_sequence_to_close(spoil, says):
    _, _, exported = source()
    engine = engine_of(MODEL)
    before = engine.describe()
    sequence = engine.begin_restore(TOKENS)
    engine.put_latents(sequence, 0, exported.latents)
    with pytest.raises(SnapshotMismatch, match=says):
        engine.finish_restore(sequence, spoil(snapshot_of(exported)))
    with pytest.raises(SequenceBusy):
        engine.export(sequence)
    engine.check_idle()
    assert engine.describe() != before
    engine.close(sequence)
    engine.check_idle()
    assert engine.describe() == before


def test_what_was_never_put_is_named():
    _, _, exported = source()
    engine = engine_of(MODEL)
    sequence = engine.begin_restore(TOKENS)
    engine.put_latents(sequence, 0, exported.latents[:, :140])
    engine.put_latents(sequence, 141, exported.latents[:, 141:])
    with pytest.raises(SnapshotMismatch, match="position 140 were never put"):
        engine.finish_restore(sequence, snapshot_of(exported))
    engine.put_latents(sequence, 130, exported.latents[:, 130:141])
    engine.finish_restore(sequence, snapshot_of(exported))
    assert torch.equal(engine.export(sequence).latents, exported.latents)


def test_a_restore_takes_all_it_needs_at_its_beginning_or_nothing():
    engine = engine_of(MODEL, max_slots=2, max_tokens=512)
    with pytest.raises(EngineFull, match="pages"):
        engine.begin_restore(513)
    engine.begin_restore(400)
    with pytest.raises(EngineFull, match="pages"):
        engine.begin_restore(1)
    engine.begin_restore(0)
    with pytest.raises(EngineFull, match="slots"):
        engine.begin_restore(0)
    with pytest.raises(ValueError, match="position -1"):
        engine.begin_restore(-1)
    engine.check_idle()
