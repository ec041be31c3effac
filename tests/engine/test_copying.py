"""What may be copied, against an oracle that looks at every position of the source."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import Copying, Occurrences, SamplingParams, Token
from engine.copying import LONGEST, Copier, quotes_in
from engine.occurrences import DEEPEST, SEAM
from engine.sampler import logprob
from engine.testing import tiny_model
from tests.engine.driving import engine_of, read, run, some_ids

MODEL = tiny_model()
OPEN, CLOSE = 120, 121
SOURCE = st.lists(st.sampled_from([SEAM, 0, 1, 2, 3]), max_size=60)
BEGINS = st.lists(st.booleans(), min_size=4, max_size=4)
SPACED = st.sampled_from([[-1, -1, -1, -1], [-1, 0, -1, 2], [3, 3, -1, -1]]).map(np.array)


def stands(source, quote):
    """The oracle: every position where ``quote`` stands; a quote holds no seam."""
    return [at for at in range(len(source)) if source[at : at + len(quote)] == quote]


def followers(source, quote):
    ids = {[*source, SEAM][at + len(quote)] for at in (stands(source, quote) if quote else range(len(source)))}
    return sorted(ids - {SEAM})


def walked(source, quote):
    place = Occurrences(np.array(source, np.int32)).start
    for token in quote:
        place = place and place.take(token)
    return place


# the source


@settings(deadline=None)
@given(SOURCE, st.lists(st.integers(0, 3), max_size=6))
def test_what_follows_and_where_it_stands(source, quote):
    place, at = walked(source, quote), stands(source, quote)
    if quote:
        assert (place is not None) == bool(at)
    if place and quote:
        assert sorted(place.positions().tolist()) == at
    if place:
        assert place.allowed().tolist() == followers(source, quote)


@settings(deadline=None)
@given(SOURCE, st.lists(st.integers(0, 3), min_size=1, max_size=6), SPACED)
def test_a_quote_is_found_with_and_without_the_space_before_it(source, quote, spaced):
    positions, spaces = Occurrences(np.array(source, np.int32), np.ones(4, bool), spaced).find(quote)
    expected = sorted((at, form != quote) for form in forms(quote, spaced) for at in stands(source, form))
    assert list(zip(positions.tolist(), spaces.tolist(), strict=True)) == expected


@settings(deadline=None)
@given(SOURCE, SOURCE, BEGINS, SPACED, st.integers(1, 5), st.data())
def test_every_walk_is_a_quote_and_every_quote_can_be_walked(one, other, begins, spaced, longest, data):
    """Two sources, ids inside characters, a limit: at each step the allowed ids are the oracle's."""
    begins = np.array(begins)
    sources = tuple(Occurrences(np.array(ids, np.int32), begins, spaced) for ids in (one, other))
    first = [
        token
        for token in range(4)
        if begins[token] and any(ids is not None for ids in read_on([token], (one, other), spaced))
    ]
    if not first:
        with pytest.raises(ValueError, match="nothing to copy from"):
            Copying(sources, 6, 7, longest)
        return
    copier, quote = Copier(Copying(sources, 6, 7, longest)), []
    assert copier.allowed() is None
    copier.feed(6)
    assert copier.allowed().tolist() == first
    while (token := data.draw(st.sampled_from(copier.allowed().tolist()))) != 7:
        copier.feed(token)
        quote.append(token)
        follow = [ids for ids in read_on(quote, (one, other), spaced) if ids is not None]
        may_end = any(not ids or begins[ids[0]] for ids in follow)
        on = [] if may_end and len(quote) >= longest else sorted({token for ids in follow for token in ids})
        assert copier.allowed().tolist() == [*on, *([7] if may_end else [])]
    copier.feed(7)
    assert copier.allowed() is None and quote


def forms(quote, spaced):
    """As it is, and with the space before it."""
    return [quote, *([[int(spaced[quote[0]]), *quote[1:]]] if spaced[quote[0]] >= 0 else [])]


def read_on(quote, sources, spaced):
    """The oracle: what follows each form of the quote in each source; None where it does not stand."""
    pairs = [(source, form) for source in sources for form in forms(quote, spaced)]
    return [followers(source, form) if stands(source, form) else None for source, form in pairs]


def test_a_quote_crosses_no_seam_and_does_not_open_with_one():
    place = Occurrences(np.array([5, 6, SEAM, 7, 5, 6, 8], np.int32)).start
    assert place.allowed().tolist() == [5, 6, 7, 8]
    inner = place.take(5).take(6)
    assert inner.allowed().tolist() == [8] and sorted(inner.positions().tolist()) == [0, 4]
    assert place.take(SEAM) is None and place.take(9) is None


def test_a_source_that_says_one_thing_a_thousand_times_is_told_apart_up_to_the_deepest():
    ids = np.tile(np.array([1, 2, 3], np.int32), 1000)
    source, place = Occurrences(ids), Occurrences(ids).start
    for depth in range(DEEPEST - 1):
        assert place.allowed().tolist() == ([1, 2, 3] if not depth else [depth % 3 + 1])
        place = place.take(depth % 3 + 1)
    assert place.take(DEEPEST % 3) is None and place.last - place.first == len(stands_in(ids, DEEPEST - 1))
    assert source.find([2, 3])[0].tolist() == list(range(1, 3000, 3))


def stands_in(ids, length):
    return range(0, len(ids) - length + 1, 3)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999_900), st.integers(1, 40))
def test_in_a_million_ids_any_stretch_can_be_quoted(at, length):
    quote = MILLION.ids[at : at + length].tolist()
    place = MILLION.start
    for token in quote:
        assert token in place.allowed()
        place = place.take(token)
    assert at in place.positions()
    for position in place.positions()[:5]:
        assert MILLION.ids[position : position + length].tolist() == quote


MILLION = Occurrences((np.random.default_rng(0).zipf(1.3, 1_000_000) % 16_000).astype(np.int32))


def test_the_quotes_in_what_was_decoded():
    assert quotes_in([1, 8, 2, 3, 9, 8, 4], 8, 9) == [(2, 4), (6, 7)]
    assert quotes_in([9, 1, 8], 8, 9) == [(3, 3)] and quotes_in([1], 8, 9) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"close": OPEN}, "same id 120"), ({"longest": LONGEST + 1}, "501"), ({"longest": 0}, "at least 1")],
)
def test_what_cannot_be_is_refused(wrong, said):
    options = {"sources": (Occurrences(np.arange(5)),), "open": OPEN, "close": CLOSE}
    with pytest.raises(ValueError, match=said):
        Copying(**(options | wrong))
    with pytest.raises(ValueError, match="nothing to copy"):
        Copying((Occurrences(np.array([SEAM, CLOSE, SEAM])),), OPEN, CLOSE)


# decoding


def decoded(engine, sequence, forced=(), copying=None, **params):
    engine.generate(sequence, SamplingParams(**params), forced, copying)
    return [event for event in run(engine) if isinstance(event, Token)]


def checked(tokens, source, longest):
    """Every stretch between the marks stands in the source; returns how many were closed."""
    ids = [token.id for token in tokens]
    for first, end in quotes_in(ids, OPEN, CLOSE):
        quote = ids[first:end]
        assert len(quote) <= longest and (not quote or stands(source, quote))
    return ids.count(CLOSE)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 8.0])
@pytest.mark.parametrize("deterministic", [True, False])
def test_what_stands_in_quotes_stands_in_the_source(temperature, deterministic):
    source = some_ids(400, seed=3)
    source = [token for token in source if token < OPEN]
    copying = Copying((Occurrences(np.array(source)),), OPEN, CLOSE, longest=6)
    engine = engine_of(MODEL, deterministic=deterministic)
    sequence = engine.open()
    read(engine, sequence, some_ids(100))
    closed = 0
    for seed in range(6):
        fork = engine.fork(sequence)
        options = {"temperature": temperature, "top_p": 0.9, "seed": seed, "max_tokens": 20}
        tokens = decoded(engine, fork, [OPEN], copying, **options)
        assert len(tokens) == 20
        closed += checked(tokens, source, 6)
        engine.close(fork)
    assert closed >= 6


def test_a_sequence_without_quotes_decodes_to_the_same_bits_beside_those_with():
    """Alone, with a constraint that never opens, and in one batch with others that are held to a source."""
    for deterministic in (True, False):
        engine = engine_of(MODEL, deterministic=deterministic)
        sequence = engine.open()
        read(engine, sequence, some_ids(100))
        alone = decoded(engine, engine.fork(sequence), temperature=1.0, seed=4, max_tokens=12)
        unused = next(i for i in range(128) if i not in {token.id for token in alone} | {CLOSE})
        idle = Copying((Occurrences(np.arange(9)),), unused, CLOSE)
        assert decoded(engine, engine.fork(sequence), (), idle, temperature=1.0, seed=4, max_tokens=12) == [
            Token(token.request + 1, token.id, token.logprob, token.likeliest) for token in alone
        ]


def test_with_and_without_a_constraint_in_one_batch():
    source = [token for token in some_ids(300, seed=5) if token < OPEN]
    copying = Copying((Occurrences(np.array(source)),), OPEN, CLOSE, longest=8)
    engine = engine_of(MODEL, deterministic=True)
    sequence = engine.open()
    read(engine, sequence, some_ids(100))
    params = SamplingParams(temperature=2.0, seed=9, max_tokens=15)
    plans = [((), None), ((OPEN,), copying), ((), None), ((OPEN, source[7]), copying)]
    alone = []
    for forced, how in plans:
        fork = engine.fork(sequence)
        alone.append([(t.id, t.logprob) for t in decoded(engine, fork, forced, how, **vars(params))])
        engine.close(fork)
    requests = [engine.generate(engine.fork(sequence), params, forced, how) for forced, how in plans]
    tokens = [event for event in run(engine) if isinstance(event, Token)]
    assert [[(t.id, t.logprob) for t in tokens if t.request == r] for r in requests] == alone
    for request in (requests[1], requests[3]):
        assert checked([t for t in tokens if t.request == request], source, 8)


def test_the_probabilities_are_those_among_the_ids_allowed():
    source = Occurrences(np.array([10, 11, SEAM, 12, 11, 13]))
    engine = engine_of(MODEL)
    sequence = engine.open()
    read(engine, sequence, [*some_ids(50), OPEN])
    logits = engine._sequences[sequence].logits.clone()
    engine.close(sequence)
    sequence = engine.open()
    read(engine, sequence, some_ids(50))
    tokens = decoded(engine, sequence, [OPEN], Copying((source,), OPEN, CLOSE), max_tokens=8)
    among = logits[[10, 11, 12, 13]]
    first = tokens[1]
    assert first.id == 10 + int(among.argmax()) and first.likeliest
    assert first.logprob == pytest.approx(logprob(among, first.id - 10), abs=1e-4)
    only = [t for t, before in zip(tokens[1:], tokens, strict=False) if before.id == 13]
    assert all(t.id == CLOSE and t.logprob == 0.0 for t in only)
    assert torch.isfinite(torch.tensor([t.logprob for t in tokens])).all()


def test_a_forced_quote_must_stand_in_the_source():
    engine = engine_of(MODEL)
    sequence = engine.open()
    read(engine, sequence, some_ids(20))
    copying = Copying((Occurrences(np.array([1, 2, 3])),), OPEN, CLOSE)
    with pytest.raises(ValueError, match="id 3 does not follow"):
        engine.generate(sequence, SamplingParams(), [OPEN, 1, 3], copying)
    with pytest.raises(ValueError, match="120 to 500"):
        engine.generate(sequence, SamplingParams(), [], Copying((Occurrences(np.array([500])),), OPEN, CLOSE))
    assert not engine.busy
    assert [t.id for t in decoded(engine, sequence, [OPEN, 1, 2, 3], copying, max_tokens=5)] == [OPEN, 1, 2, 3, CLOSE]
