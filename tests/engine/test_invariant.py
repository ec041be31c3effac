"""A reading is a pure function of what was read. Programs are drawn at random; equality is to the bit."""

import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import Engine, SamplingParams, Snapshot
from engine.digest import of_segments
from engine.model import KimiLinear
from engine.testing import tiny_model
from tests.engine.driving import engine_of, poison, read, run, some_ids, state

COMPILED = {"kv_lora_rank": 32, "qk_rope_head_dim": 16}  # widths that the compiled kernels take; TINY's they leave
MODELS = {
    "torch": tiny_model(),
    "compiled": tiny_model(0, COMPILED),
    "bf16": tiny_model(0, COMPILED, dtype=torch.bfloat16),
    "int8": tiny_model(0, COMPILED, dtype=torch.int8),
}
LENGTHS = st.sampled_from([1, 2, 37, 63, 64, 65, 128, 150, 260])
STEPS = st.sampled_from([64, 128, 256, 512])
OPS = st.one_of(
    st.tuples(st.just("open"), st.just(0)),
    st.tuples(st.just("read"), LENGTHS),
    st.tuples(st.just("read"), LENGTHS),
    st.tuples(st.just("step"), st.integers(1, 4)),
    st.tuples(st.just("fork"), st.just(0)),
    st.tuples(st.just("generate"), st.integers(1, 5)),
    st.tuples(st.just("abort"), st.just(0)),
    st.tuples(st.just("move"), STEPS),
    st.tuples(st.just("twin"), st.integers(0, 99)),
    st.tuples(st.just("twin"), st.integers(0, 99)),
    st.tuples(st.just("close"), st.just(0)),
)
PROGRAM = st.lists(st.tuples(OPS, st.integers(0, 9)), min_size=4, max_size=24)


@dataclass
class Reader:
    """A live sequence and what it has read. ``segment`` is being read; ``begun`` is where it began."""

    engine: Engine
    sequence: int
    segments: list[list[int]] = field(default_factory=list)
    segment: list[int] | None = None
    request: int = 0

    @property
    def read_before(self) -> int:
        return sum(len(segment) for segment in self.segments)

    def settle(self) -> None:
        """Books what has been read of the running segment, whether it ended or was aborted."""
        if self.segment:
            done = self.engine.position(self.sequence) - self.read_before
            self.segments += [self.segment[:done]] if done else []
        self.segment = None


class Program:
    """Runs operations on readers that live in several engines at once."""

    def __init__(self, model: KimiLinear, prefill: int) -> None:
        self.model, self.readers = model, list[Reader]()
        self.engines = [engine_of(model, prefill_tokens_per_step=prefill)]
        self.count = 0

    def run(self, op: str, argument: int, which: int) -> None:
        if op == "open" or not self.readers:
            return self.open()
        reader = self.readers[which % len(self.readers)]
        getattr(self, op)(reader, argument)
        for engine in self.engines:
            engine.check_idle()
            poison(engine)

    def open(self) -> None:
        if self.engines[-1].describe().slots_free:
            self.readers.append(Reader(self.engines[-1], self.engines[-1].open()))

    def read(self, reader: Reader, length: int) -> None:
        self.finish(reader)
        self.count += 1
        reader.segment = some_ids(length, seed=self.count)
        reader.request = reader.engine.read(reader.sequence, reader.segment)

    def step(self, reader: Reader, times: int) -> None:
        for _ in range(times):
            reader.engine.step()

    def finish(self, reader: Reader) -> None:
        run(reader.engine)
        for other in self.readers:
            if other.engine is reader.engine:
                other.settle()

    def fork(self, reader: Reader, _: int) -> None:
        self.finish(reader)
        if reader.engine.describe().slots_free:
            child = Reader(reader.engine, reader.engine.fork(reader.sequence), list(reader.segments))
            self.readers.append(child)

    def generate(self, reader: Reader, tokens: int) -> None:
        """An answer is decoded on a fork, which is thrown away, and read back as a segment."""
        self.finish(reader)
        engine = reader.engine
        if engine.describe().slots_free and engine._sequences[reader.sequence].logits is not None:
            fork = engine.fork(reader.sequence)
            engine.generate(fork, SamplingParams(temperature=1.0, seed=tokens, max_tokens=tokens))
            answer = [event.id for event in run(engine) if hasattr(event, "logprob")]
            engine.close(fork)
            reader.segment = answer
            reader.request = engine.read(reader.sequence, answer)

    def abort(self, reader: Reader, _: int) -> None:
        if reader.segment:
            reader.engine.abort(reader.request)
            reader.settle()

    def move(self, reader: Reader, prefill: int) -> None:
        """Snapshot, and restore into a fresh engine with other steps."""
        self.finish(reader)
        old, position = reader.engine, reader.engine.position(reader.sequence)
        snapshot, latents = old.snapshot(reader.sequence), old.latents(reader.sequence, 0, position)
        old.close(reader.sequence)
        self.engines.append(engine_of(self.model, prefill_tokens_per_step=prefill))
        reader.engine = self.engines[-1]
        reader.sequence = reader.engine.restore(snapshot, latents)

    def twin(self, reader: Reader, seed: int) -> None:
        """Out of the engine where it stands, in the middle of a read too; piece by piece into another one, on there.

        The original goes on as well. The other engine runs while it takes the twin up.
        """
        draw = random.Random(seed)
        if reader.engine.describe().pages_free > 8 and draw.random() < 0.7:
            self.read(reader, draw.choice([100, 150, 260]))
            self.step(reader, draw.randint(1, 3))
        exported = reader.engine.export(reader.sequence)
        engine = self.another(exported.position, draw)
        sequence = engine.begin_restore(exported.position)
        for first, stop in cuts(exported.position, draw):
            engine.put_latents(sequence, first, exported.latents[:, first:stop])
            if draw.random() < 0.3:
                engine.step()
        engine.finish_restore(sequence, Snapshot(exported.position, exported.digest, exported.tensors))
        assert engine.export(sequence).tags == exported.tags
        twin = Reader(engine, sequence, list(reader.segments), reader.segment)
        self.readers.append(twin)
        rest = (twin.segment or [])[exported.position - twin.read_before :]
        if rest:
            twin.request = engine.read(sequence, rest)

    def another(self, tokens: int, draw: random.Random) -> Engine:
        """Any engine with room, or a fresh one."""
        engine = draw.choice(self.engines)
        info = engine.describe()
        if draw.random() < 0.5 and info.slots_free and info.pages_free * info.page_tokens > tokens + 2000:
            return engine
        self.engines.append(engine_of(self.model, prefill_tokens_per_step=draw.choice([64, 128, 512])))
        return self.engines[-1]

    def close(self, reader: Reader, _: int) -> None:
        reader.engine.close(reader.sequence)
        self.readers.remove(reader)


def cuts(tokens: int, draw: random.Random) -> list[tuple[int, int]]:
    """Positions 0..tokens in pieces of any length, in any order."""
    edges = sorted({0, tokens, *(draw.randint(0, tokens) for _ in range(draw.randint(0, 5)))})
    pieces = list(pairwise(edges))
    draw.shuffle(pieces)
    return pieces


def in_one_go(model: KimiLinear, segments: list[list[int]]) -> tuple[Engine, int]:
    engine = engine_of(model)
    sequence = engine.open()
    for segment in segments:
        read(engine, sequence, segment)
    return engine, sequence


@pytest.mark.parametrize("kind", MODELS)
@settings(max_examples=60, deadline=None)
@given(prefill=STEPS, operations=PROGRAM)
def test_any_program_leaves_what_reading_the_same_segments_in_one_go_leaves(kind, prefill, operations):
    model = MODELS[kind]
    assert model.compiled == (kind != "torch")
    program = Program(model, prefill)
    for (op, argument), which in operations:
        program.run(op, argument, which)
    for reader in program.readers:
        program.finish(reader)
        engine, sequence = in_one_go(model, reader.segments)
        assert reader.engine.position(reader.sequence) == reader.read_before
        assert reader.engine.digest(reader.sequence) == engine.digest(sequence) == of_segments(reader.segments, 64)
        assert reader.engine.export(reader.sequence).tags == engine.export(sequence).tags
        found, expected = state(reader.engine, reader.sequence), state(engine, sequence)
        assert {"kda", "conv", "latents"} <= found.keys()
        for name in found.keys() & expected.keys():
            assert torch.equal(found[name], expected[name]), f"{name} of {[len(s) for s in reader.segments]}"
    for engine in program.engines:
        for reader in [reader for reader in program.readers if reader.engine is engine]:
            engine.close(reader.sequence)
        run(engine)
        info = engine.describe()
        assert (info.slots_free, info.pages_free) == (info.slots_total, info.pages_total)


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_no_bit(threads):
    """Wide enough that torch does divide the work: more than 32768 elements an operation."""
    kda = {"num_heads": 4, "head_dim": 64, "short_conv_kernel_size": 4, "kda_layers": [1], "full_attn_layers": [2]}
    widths = {
        "hidden_size": 256,
        "num_attention_heads": 4,
        "kv_lora_rank": 48,
        "qk_rope_head_dim": 16,
        "num_experts": 8,
    }
    widths |= {"intermediate_size": 704, "moe_intermediate_size": 208, "num_hidden_layers": 2}
    model = tiny_model(0, widths | {"linear_attn_config": kda}, compiled_kernels=False)
    states = []
    for count in (1, threads):
        torch.set_num_threads(count)
        engine = engine_of(model)
        sequence = engine.open()
        for length in (37, 700, 1):
            read(engine, sequence, some_ids(length))
        states.append(state(engine, sequence))
        assert engine.describe().contract["threads"] == "any"
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_model_of_odd_widths_is_bound_to_its_number_of_threads():
    torch.set_num_threads(2)
    assert engine_of(MODELS["torch"]).describe().contract["threads"] == "2"
