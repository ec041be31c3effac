"""A model in the Triton kernels, run in their interpreter on the CPU in fp32: what the same model is in PyTorch's."""

import pytest
import torch

from engine import Done, Engine, SamplingParams, Token, build
from engine.build import build_model
from engine.config import ModelConfig
from engine.model import KimiLinear
from engine.sequences import Sequence
from engine.testing import TINY, random_tensors
from tests.engine import reference
from tests.engine.driving import decode, engine_of, read, run, some_ids, state
from tests.kernels.cases import assert_near
from tests.kernels.gpu.conftest import ON_GPU  # before the first import of a kernel

pytestmark = pytest.mark.skipif(ON_GPU, reason="test_on_gpu.py runs them there")

SMALL = TINY | {
    "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 16,
    "moe_intermediate_size": 16, "num_shared_experts": 2,
    "linear_attn_config": TINY["linear_attn_config"] | {"kda_layers": [1], "full_attn_layers": [2]},
}  # fmt: skip
"""A layer of each kind, as narrow as the kernels take them."""

NEWER = {name: SMALL | {"linear_attn_config": SMALL["linear_attn_config"] | fields} for name, fields in {
    "bounded": {"gate_lower_bound": -5.0},
    "full rank": {"gate_lower_bound": -5.0, "use_full_rank_gate": True},
}.items()}  # fmt: skip


@pytest.fixture(scope="module")
def plain() -> KimiLinear:
    config = ModelConfig.from_dict(SMALL)
    return build_model(config, random_tensors(config, 0), torch.device("cpu"), torch.float32, compiled_kernels=False)


@pytest.fixture(scope="module")
def model() -> KimiLinear:
    return in_kernels(SMALL)


def in_kernels(fields) -> KimiLinear:
    from engine import gpu

    config = ModelConfig.from_dict(fields)
    assert gpu.fits(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_runs_triton", lambda *_: True)
        return build_model(config, random_tensors(config, 0), torch.device("cpu"), torch.float32, False)


def small(model: KimiLinear, **settings: object) -> Engine:
    return engine_of(model, **({"page_tokens": 16, "max_tokens": 1024, "deterministic": False} | settings))


def standing(engine: Engine, count: int) -> list[Sequence]:
    """Sequences that have read 20 tokens each, more than a page."""
    sequences = [engine._sequences[engine.open()] for _ in range(count)]
    for i, s in enumerate(sequences):
        engine.read(s.id, some_ids(20, seed=i))
    run(engine)
    return sequences


def whole(engine: Engine):
    """Segments of one row, of a few and of several chunks, then tokens over the edge of a page."""
    sequence = engine.open()
    for i, length in enumerate((37, 70, 1)):
        read(engine, sequence, some_ids(length, seed=i))
    tokens = decode(engine, sequence, max_tokens=7)
    return state(engine, sequence), tokens


@pytest.mark.parametrize("deterministic", [True, False])
def test_it_is_the_same_model(plain, model, deterministic):
    found, tokens = whole(small(model, deterministic=deterministic))
    expected, same = whole(small(plain))
    assert tokens == same
    for name, x in found.items():
        assert torch.allclose(x, expected[name], atol=1e-4, rtol=1e-4), name


@pytest.mark.parametrize("fields", NEWER.values(), ids=NEWER)
def test_the_newer_gates_are_those_of_the_formulas(fields):
    """Read in chunks, then fed one by one."""
    config, ids = ModelConfig.from_dict(fields), some_ids(72)
    engine = small(in_kernels(fields))
    sequence = engine.open()
    read(engine, sequence, ids[:70])
    engine.generate(sequence, SamplingParams(max_tokens=3), forced=[*ids[70:], 0])
    run(engine)
    expected = reference.logits(config, random_tensors(config, 0), ids)[-1]
    assert_near(engine._sequences[sequence].logits, expected, 1e-4)


def test_pieces_of_many_and_of_single_rows_in_one_forward(plain, model):
    ends = []
    for engine in (small(model), small(plain)):
        sequences = [engine.open() for _ in range(4)]
        for i, (sequence, length) in enumerate(zip(sequences, (20, 1, 70, 1), strict=True)):
            engine.read(sequence, some_ids(length, seed=i))
        assert [event.reason for event in run(engine) if isinstance(event, Done)] == ["read"] * 4
        ends.append([state(engine, sequence) for sequence in sequences])
    for found, expected in zip(*ends, strict=True):
        for name, x in found.items():
            assert torch.allclose(x, expected[name], atol=1e-4, rtol=1e-4), name


def test_those_who_decode_together_say_what_they_say_alone(model):
    """Three of them, so that a row is idle; one meanwhile reads."""
    engine = small(model)
    sequences = [engine.open() for _ in range(3)]
    for i, sequence in enumerate(sequences):
        read(engine, sequence, some_ids(10 + 11 * i, seed=i))
    forks = [engine.fork(sequence) for sequence in sequences]
    alone = [decode(engine, fork, max_tokens=4) for fork in forks]
    states = [state(engine, fork) for fork in forks]
    for fork in forks:
        engine.close(fork)
    reader = engine.open()
    engine.read(reader, some_ids(5, seed=9))
    requests = [engine.generate(sequence, SamplingParams(max_tokens=4)) for sequence in sequences]
    events = [event for event in run(engine) if isinstance(event, Token)]
    assert [[event.id for event in events if event.request == request] for request in requests] == alone
    for sequence, expected in zip(sequences, states, strict=True):
        found = state(engine, sequence)
        assert all(torch.equal(found[name], x) for name, x in expected.items())


def test_company_and_steps_change_no_bit_of_the_deterministic_mode(model):
    """65 tokens: two steps, the second of one row, or one beside another reading."""
    ends = []
    for step, company in ((64, 0), (128, 3)):
        engine = small(model, deterministic=True, prefill_tokens_per_step=step)
        sequence = engine.open()
        if company:
            engine.read(engine.open(), some_ids(company, seed=9))
        read(engine, sequence, some_ids(65))
        ends.append(state(engine, sequence))
    for name, x in ends[0].items():
        assert torch.equal(x, ends[1][name]), name


def test_a_resumed_reading_gives_the_bits_of_an_unbroken_one(model):
    one, two = small(model), small(model)
    unbroken = one.open()
    read(one, unbroken, some_ids(40))
    resumed = two.restore(one.snapshot(unbroken), one.latents(unbroken, 0, 40))
    for engine, sequence in ((one, unbroken), (two, resumed)):
        read(engine, sequence, some_ids(20, seed=1))
    assert decode(one, unbroken, max_tokens=4) == decode(two, resumed, max_tokens=4)
    found, expected = state(two, resumed), state(one, unbroken)
    assert all(torch.equal(found[name], x) for name, x in expected.items())


@pytest.mark.parametrize("name", ["kda", "conv", "latents"])
def test_one_whose_numbers_moved_ends_and_the_others_decode_on(model, name):
    engine = small(model)
    moved, other, whole = standing(engine, 3)
    pool = getattr(engine.pools, name)
    row, neighbour = (moved.pages[1], other.pages[1]) if name == "latents" else (moved.slot, other.slot)
    pool[:, row] = pool[:, neighbour]
    requests = [engine.generate(s.id, SamplingParams(max_tokens=2)) for s in (moved, whole)]
    done = {event.request: event for event in run(engine) if isinstance(event, Done)}
    assert [done[request].reason for request in requests] == ["error", "length"]
    assert "not what had been written" in done[requests[0]].error


def test_a_row_that_says_something_else_is_not_decoded_on(model):
    engine = small(model)
    (s,) = standing(engine, 1)
    engine.pools.pages[0].tags[s.pages[1]] = engine.pools.pages[0].tags[s.pages[0]]
    request = engine.generate(s.id, SamplingParams(max_tokens=2))
    (done,) = [event for event in run(engine) if isinstance(event, Done)]
    assert (done.request, done.reason) == (request, "error") and "ProvenanceError" in done.error


def test_a_number_that_is_none_ends_its_sequence_alone(model):
    engine = small(model)
    broken, other = standing(engine, 2)
    engine.pools.latents[0, broken.pages[0], 3] = float("nan")  # between the places that a seal looks at
    requests = [engine.generate(s.id, SamplingParams(max_tokens=2)) for s in (broken, other)]
    done = {event.request: event for event in run(engine) if isinstance(event, Done)}
    assert [done[request].reason for request in requests] == ["error", "length"]
    assert "not a number" in done[requests[0]].error


def test_greedy_tokens_and_probabilities_are_those_of_the_logits(model):
    engine = small(model)
    (s,) = standing(engine, 1)
    forks = [engine.fork(s.id) for _ in range(2)]
    found = []
    for fork, params in zip(forks, (SamplingParams(max_tokens=3), SamplingParams(1e-6, max_tokens=3)), strict=True):
        engine.generate(fork, params)
        found.append([event for event in run(engine) if isinstance(event, Token)])
    for told, sampled in zip(*found, strict=True):  # the second goes the host's way, from the logits
        assert (told.id, told.likeliest) == (sampled.id, sampled.likeliest)
        assert told.logprob == pytest.approx(sampled.logprob, abs=1e-5)
