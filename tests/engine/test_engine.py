import pytest
import torch

import engine.model
from engine import (
    Done,
    EngineFull,
    Progress,
    SamplingParams,
    SequenceBusy,
    Snapshot,
    SnapshotMismatch,
    Token,
    UnknownSequence,
)
from engine.digest import START, of_segments
from engine.testing import tiny_model
from tests.engine.driving import decode, engine_of, poison, read, run, some_ids, state
from tests.kernels.cases import assert_near

MODEL = tiny_model()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def small():
    return engine_of(MODEL)


# reading


def test_a_reading_reports_progress_and_ends_where_it_should(small):
    ids, sequence = some_ids(150), small.open()
    request = small.read(sequence, ids)
    events = run(small)
    assert events[:3] == [Progress(request, done, 150) for done in (64, 128, 150)]
    assert events[3:] == [Done(request, "read", 150, of_segments([ids], 64))]
    assert small.position(sequence) == 150 and small.digest(sequence) == of_segments([ids], 64)


def test_the_digest_names_the_segments(small):
    a, b = small.open(), small.open()
    read(small, a, some_ids(100))
    read(small, b, some_ids(100)[:30])
    read(small, b, some_ids(100)[30:])
    assert small.position(a) == small.position(b) and small.digest(a) != small.digest(b)
    assert of_segments([], 64) == START == bytes(32)


def test_scoring_reports_every_id_after_the_first_and_moves_no_bit(small):
    ids, plain, scored = some_ids(130), small.open(), small.open()
    read(small, plain, ids)
    tokens = [event for event in read(small, scored, ids, score=True) if isinstance(event, Token)]
    assert [token.id for token in tokens] == ids[1:]
    assert all(token.logprob < 0 for token in tokens) and not all(token.likeliest for token in tokens)
    assert same(state(small, plain), state(small, scored))


# decoding


def test_a_stop_id_is_reported_and_ends_the_request(small):
    sequence = small.open()
    read(small, sequence, some_ids(20))
    tokens = decode(small, small.fork(sequence), max_tokens=9)
    stop = tokens[4]
    child = small.fork(sequence)
    request = small.generate(child, SamplingParams(max_tokens=9, stop_ids=(stop,)))
    events = run(small)
    assert [e.id for e in events if isinstance(e, Token)] == tokens[: tokens.index(stop) + 1]
    assert events[-1] == Done(request, "stop", 20 + tokens.index(stop), small.digest(child))


def test_the_last_token_is_not_fed(small):
    sequence = small.open()
    read(small, sequence, some_ids(20))
    assert len(decode(small, sequence, max_tokens=5)) == 5
    assert small.position(sequence) == 24


def test_forced_tokens_come_first_and_do_not_stop(small):
    sequence = small.open()
    read(small, sequence, some_ids(20))
    small.generate(sequence, SamplingParams(max_tokens=4, stop_ids=(7,)), forced=[7, 9])
    tokens = [event.id for event in run(small) if isinstance(event, Token)]
    assert tokens[:2] == [7, 9] and len(tokens) == 4


def test_a_decoded_token_and_a_segment_of_one_token_are_the_same_thing(small):
    a = small.open()
    read(small, a, some_ids(20))
    b = small.fork(a)
    first, second = decode(small, a, max_tokens=2)
    read(small, b, [first])
    assert same(state(small, a), state(small, b)) and small.digest(a) == small.digest(b)
    assert decode(small, b, max_tokens=1) == [second]


def test_sampling_depends_on_the_seed_and_not_on_company(small):
    sequence = small.open()
    read(small, sequence, some_ids(20))
    alone = decode(small, small.fork(sequence), temperature=1.0, seed=5, max_tokens=8)
    other, again = small.fork(sequence), small.fork(sequence)
    small.generate(other, SamplingParams(temperature=1.0, seed=6, max_tokens=8))
    request = small.generate(again, SamplingParams(temperature=1.0, seed=5, max_tokens=8))
    events = [e for e in run(small) if isinstance(e, Token)]
    assert [e.id for e in events if e.request == request] == alone
    assert [e.id for e in events if e.request != request] != alone


def test_without_logits_there_is_nothing_to_decode_from(small):
    with pytest.raises(ValueError, match="nothing to decode from"):
        small.generate(small.open(), SamplingParams())


# forks, snapshots


@pytest.mark.parametrize("tokens", [100, 128, 300])
def test_forks_go_their_own_ways(small, tokens):
    parent, common = small.open(), some_ids(tokens)
    read(small, parent, common)
    child = small.fork(parent)
    small.read(parent, some_ids(90, seed=1))
    small.read(child, some_ids(90, seed=2))
    run(small)
    for sequence, seed in ((parent, 1), (child, 2)):
        fresh = engine_of(MODEL)
        alone = fresh.open()
        read(fresh, alone, common)
        read(fresh, alone, some_ids(90, seed))
        assert same(state(small, sequence), state(fresh, alone))


def test_full_pages_of_a_fork_are_shared_and_outlive_the_parent(small):
    parent = small.open()
    read(small, parent, some_ids(300))
    free = small.describe().pages_free
    child = small.fork(parent)
    assert small.describe().pages_free == free - 1  # the partial third page
    before = state(small, child)
    small.close(parent)
    poison(small)
    assert same(state(small, child), before)
    small.close(child)
    small.check_idle()
    info = small.describe()
    assert (info.slots_free, info.pages_free) == (info.slots_total, info.pages_total)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s, x: (Snapshot(s.position, s.digest, {"kda": s.tensors["kda"]}), x),
        lambda s, x: (Snapshot(s.position, s.digest, s.tensors | {"kda": s.tensors["kda"].bfloat16()}), x),
        lambda s, x: (Snapshot(s.position, s.digest, s.tensors | {"conv": s.tensors["conv"].mT.contiguous()}), x),
        lambda s, x: (Snapshot(s.position + 1, s.digest, s.tensors), x),
        lambda s, x: (Snapshot(s.position, s.digest[:5], s.tensors), x),
        lambda s, x: (Snapshot(s.position, START, s.tensors), x),
        lambda s, x: (s, x[:, :-1]),
        lambda s, x: (s, x.bfloat16()),
    ],
)
def test_a_snapshot_that_does_not_fit_touches_nothing(small, spoil):
    sequence = small.open()
    read(small, sequence, some_ids(70))
    before = state(small, sequence), small.describe()
    with pytest.raises(SnapshotMismatch):
        small.restore(*spoil(small.snapshot(sequence), small.latents(sequence, 0, 70)))
    small.check_idle()
    assert same(state(small, sequence), before[0]) and small.describe() == before[1]


def test_latents_outside_the_reading_are_refused(small):
    sequence = small.open()
    read(small, sequence, some_ids(70))
    assert torch.equal(small.latents(sequence, 10, 30), small.latents(sequence, 0, 70)[:, 10:30])
    with pytest.raises(ValueError, match="position 70"):
        small.latents(sequence, 0, 71)


# limits, ends, errors


def test_a_full_engine_says_so_and_changes_nothing():
    engine = engine_of(MODEL, max_slots=2, max_tokens=512)
    sequence = engine.open()
    with pytest.raises(EngineFull, match="pages"):
        engine.read(sequence, some_ids(513))
    read(engine, sequence, some_ids(200))
    with pytest.raises(EngineFull, match="pages"):
        engine.generate(sequence, SamplingParams(max_tokens=400))
    engine.open()
    with pytest.raises(EngineFull, match="slots"):
        engine.fork(sequence)
    engine.check_idle()
    assert decode(engine, sequence, max_tokens=2)


def test_one_request_at_a_time_and_only_of_live_sequences(small):
    sequence = small.open()
    small.read(sequence, some_ids(10))
    with pytest.raises(SequenceBusy):
        small.read(sequence, some_ids(10))
    small.close(sequence)
    for call in (small.position, small.close, small.fork, small.snapshot):
        with pytest.raises(UnknownSequence):
            call(sequence)


@pytest.mark.parametrize("ids", [[], [-1], [128]])
def test_ids_outside_the_vocabulary_are_refused(small, ids):
    with pytest.raises(ValueError):
        small.read(small.open(), ids)


def test_abort_stops_on_the_grid_and_gives_the_rest_back():
    engine, ids = engine_of(MODEL, prefill_tokens_per_step=128), some_ids(1000)
    sequence = engine.open()
    request = engine.read(sequence, ids)
    engine.step()
    engine.abort(request)
    engine.abort(request)  # twice does no harm
    assert run(engine) == [Done(request, "aborted", 128, of_segments([ids[:128]], 64))]
    assert engine.describe().pages_free == engine.describe().pages_total - 1
    read(engine, sequence, some_ids(5))
    assert engine.position(sequence) == 133


def test_abort_before_the_first_step_leaves_an_empty_sequence(small):
    sequence = small.open()
    small.abort(small.read(sequence, some_ids(1000)))
    run(small)
    assert small.position(sequence) == 0
    read(small, sequence, some_ids(70))
    fresh = engine_of(MODEL)
    alone = fresh.open()
    read(fresh, alone, some_ids(70))
    assert same(state(small, sequence), state(fresh, alone))


@pytest.mark.parametrize("deterministic", [True, False])
def test_not_a_number_ends_one_request_and_nobody_elses(deterministic):
    engine = engine_of(MODEL, deterministic=deterministic)
    sick, well = engine.open(), engine.open()
    read(engine, sick, some_ids(20))
    engine.pools.kda[:, engine._sequences[sick].slot] = float("nan")
    bad, good = engine.read(sick, some_ids(70)), engine.read(well, some_ids(70))
    done = {event.request: event for event in run(engine) if isinstance(event, Done)}
    assert done[bad].reason == "error" and "not a number" in done[bad].error
    assert done[good].reason == "read"
    with pytest.raises(UnknownSequence):
        engine.position(sick)
    again = engine.open()  # the slot that held NaN
    read(engine, again, some_ids(70))
    tolerance = 0 if deterministic else 1e-4
    for name, x in state(engine, again).items():
        assert_near(x, state(engine, well)[name], tolerance)


def test_a_forward_that_breaks_ends_its_requests_and_leaks_nothing(small, monkeypatch):
    sequence = small.open()
    request = small.read(sequence, some_ids(70))

    def broken(*_):
        raise MemoryError("no memory")

    monkeypatch.setattr(engine.model.Mla, "forward", broken)
    (done,) = run(small)
    assert (done.request, done.reason, done.error) == (request, "error", "MemoryError: no memory")
    assert small.describe().slots_free == 6


def test_describe_counts(small):
    sequence = small.open()
    read(small, sequence, some_ids(129))
    info, snapshot = small.describe(), small.snapshot(sequence)
    assert (info.slots_free, info.pages_free) == (info.slots_total - 1, info.pages_total - 2)
    assert info.snapshot_bytes == sum(x.nbytes for x in snapshot.tensors.values())
    assert info.page_bytes == small.latents(sequence, 0, 128).nbytes
    assert info.contract["grid"] == "64" and info.contract["dtype"] == "float32"


# packed forwards


def test_packed_forwards_agree_with_single_ones():
    """Several sequences and chunks in one forward: within rounding of the deterministic result."""
    results = []
    for deterministic in (True, False):
        engine = engine_of(MODEL, deterministic=deterministic)
        sequences = [engine.open() for _ in range(3)]
        for n, sequence in enumerate(sequences):
            engine.read(sequence, some_ids(150 + 61 * n, seed=n))
        run(engine)
        for sequence in sequences:
            engine.generate(sequence, SamplingParams(max_tokens=5), forced=[1, 2, 3, 4, 5])
        engine.read(engine.open(), some_ids(200))
        run(engine)
        results.append([state(engine, sequence) for sequence in sequences])
    for expected, found in zip(*results, strict=True):
        for name in expected:
            assert_near(found[name], expected[name], 1e-4)
