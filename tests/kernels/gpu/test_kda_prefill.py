"""KDA prefill against the recurrence in float64."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from kernels.kda import kda_gate, kda_recurrence
from tests.kernels.gpu.conftest import ON_GPU

kda_prefill = pytest.importorskip("kernels.gpu.kda_prefill")
from kernels.gpu.packing import Packing  # noqa: E402

on_gpu = pytest.mark.skipif(not ON_GPU, reason="too long for the interpreter")


@dataclass
class Batch:
    """Inputs of kda_prefill. ``rate``: exp(A_log); ``bias``: dt_bias, before the softplus."""

    lengths: list[int]
    device: torch.device
    rate: float = 4.0
    bias: float = -3.0
    heads: int = 2
    key: int = 32
    value: int = 64
    dtype: torch.dtype = torch.float32
    lower_bound: float | None = None

    def __post_init__(self) -> None:
        rows, H, slots = sum(self.lengths), self.heads, len(self.lengths) + 2

        def randn(*shape: int) -> Tensor:
            return torch.randn(*shape, device=self.device)

        self.q, self.k, self.a = (randn(rows, H, self.key).to(self.dtype) for _ in range(3))
        self.v, self.b = randn(rows, H, self.value).to(self.dtype), randn(rows, H).to(self.dtype)
        self.A_log = torch.full((H,), self.rate, device=self.device).log()
        self.dt_bias = self.bias + randn(H * self.key)
        self.pool = torch.full((slots, H, self.key, self.value), float("nan"), device=self.device)
        self.slots = torch.randperm(slots - 1, device=self.device)[: len(self.lengths)].to(torch.int32)
        self.pool[self.slots.long()] = randn(len(self.lengths), H, self.key, self.value)

    def run(self, rows: slice = slice(None), lengths: list[int] | None = None, **named) -> Tensor:
        parts = [x[rows] for x in (self.q, self.k, self.v, self.a, self.b)]
        slots = named.pop("slots", self.slots)
        packing = Packing.of(lengths or self.lengths, self.device)
        return kda_prefill.kda_prefill(
            *parts, self.A_log, self.dt_bias, packing, self.pool, slots, lower_bound=self.lower_bound, **named
        )

    def gate(self) -> Tensor:
        """[T,H,K] fp64, in nats, by the definition."""
        a, A_log, dt_bias = (x.double() for x in (self.a, self.A_log, self.dt_bias))
        if self.lower_bound is None:
            return kda_gate(a.flatten(1), A_log, dt_bias)
        return self.lower_bound * (A_log.exp()[:, None] * (a + dt_bias.view(self.heads, self.key))).sigmoid()

    def expected(self) -> tuple[Tensor, Tensor]:
        """(o, the sequences' last states), fp64, by the definition."""
        b, v, g = self.b.double(), self.v.double(), self.gate()
        q, k = (x.double() * (x.double().square().sum(-1, keepdim=True) + 1e-6).rsqrt() for x in (self.q, self.k))
        outputs, states, start = [], [], 0
        for length, slot in zip(self.lengths, self.slots.tolist(), strict=True):
            n = slice(start, start + length)
            state = self.pool[slot].double()
            o, state = kda_recurrence(q[n] * self.key**-0.5, k[n], v[n], g[n], b[n].sigmoid(), state)
            outputs.append(o)
            states.append(state)
            start += length
        return torch.cat(outputs), torch.stack(states)

    def check(self, allowed: float = 5.5e-3, **named) -> None:
        o, states = self.expected()
        before = self.pool.clone()
        found = self.run(**named)
        coarse = 1 if ON_GPU else 4  # the interpreter's bf16 is cut off, not rounded
        exact = 1e-4 if ON_GPU else 2e-5  # there a product of fp32 is three of tf32
        bars = (exact, exact) if self.dtype == torch.float32 else (allowed * coarse, 4.5e-3 * coarse)
        near(found, o, bars[0])
        near(self.pool[self.slots.long()], states, bars[1])
        untouched = [n for n in range(len(self.pool)) if n not in self.slots.tolist()]
        assert torch.equal(self.pool[untouched].isnan(), before[untouched].isnan())


def near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.isfinite().all()
    error = float((found.double() - expected).norm() / expected.norm())
    assert error <= tolerance, f"relative error {error:.2e}, allowed {tolerance:.1e}"


def sized(**named):
    """The sizes of the 48B on a GPU."""
    return named | (dict(heads=4, key=128, value=128, dtype=torch.bfloat16) if ON_GPU else {})


@pytest.mark.parametrize(
    "length", [1, 31, 63, 64, 65, pytest.param(255, marks=on_gpu), pytest.param(257, marks=on_gpu)]
)
def test_any_length(device, length):
    Batch([length], device, **sized()).check()


@pytest.mark.parametrize("rate, bias", [(1.0, -9.0), (16.0, -2.5), (8.0, 3.0), (200.0, 2.0)])
def test_any_gate(device, rate, bias):
    """From nearly none to 400 nats a token and more."""
    Batch([70], device, rate, bias, **sized()).check()


@pytest.mark.skipif(ON_GPU, reason="a compiled kernel cannot be watched")
def test_slow_gates_go_the_fast_way_and_fast_gates_the_exact_one(device, monkeypatch):
    taken = []
    exact = kda_prefill._products_by_blocks

    def watched(*args):
        taken.append("exact")
        return exact(*args)

    monkeypatch.setattr(kda_prefill, "_products_by_blocks", watched)
    Batch([70], device, 2.0, -4.0).check()
    assert not taken
    Batch([70], device, 200.0, 2.0).check()
    assert len(taken) == 4  # two chunks of two heads


@pytest.mark.parametrize("rate, bias", [(1.0, -4.0), (8.0, 1.0)])
def test_bounded_gate(device, rate, bias):
    Batch([70], device, rate, bias, lower_bound=-5.0, **sized()).check()


def test_a_burst_between_slow_gates(device):
    batch = Batch([130], device, 1.0, -6.0)
    batch.a[20] = batch.a[50] = batch.a[77] = 200.0
    batch.check()


@pytest.mark.parametrize("logit", [-2.0, 0.0, 5.0])
def test_identical_keys(device, logit):
    batch = Batch([128], device, 1.0, -12.0, **sized())
    batch.k[:] = batch.k[:1]
    batch.b.fill_(logit)
    batch.check(allowed=8e-3)  # each row takes back nearly all that the one before wrote


def test_bf16(device):
    Batch([90], device, key=64 if ON_GPU else 32, value=128, dtype=torch.bfloat16).check()


def test_a_cut_on_the_grid_changes_no_bit(device):
    batch = Batch([150], device, **sized())
    before = batch.pool.clone()
    whole = batch.run()
    last, batch.pool = batch.pool, before
    parts = [batch.run(slice(0, 64), [64]), batch.run(slice(64, 150), [86])]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(batch.pool[batch.slots.long()], last[batch.slots.long()])


def test_packed_gives_the_bits_of_separate(device):
    batch = Batch([65, 3, 64], device, **sized())
    before = batch.pool.clone()
    packed = batch.run()
    last, batch.pool = batch.pool, before
    parts = [
        batch.run(slice(0, 65), [65], slots=batch.slots[:1]),
        batch.run(slice(65, 68), [3], slots=batch.slots[1:2]),
        batch.run(slice(68, 132), [64], slots=batch.slots[2:]),
    ]
    assert torch.equal(torch.cat(parts), packed)
    assert torch.equal(batch.pool[batch.slots.long()], last[batch.slots.long()])


def test_packed_against_the_definition(device):
    Batch([5, 66], device, **sized()).check()


def test_a_long_packing_goes_in_slices(device, monkeypatch):
    batch = Batch([70, 20, 65], device)
    before = batch.pool.clone()
    whole = batch.run()
    last, batch.pool = batch.pool, before
    monkeypatch.setattr(kda_prefill, "SLICE", 2)
    assert torch.equal(batch.run(), whole)
    assert torch.equal(batch.pool[batch.slots.long()], last[batch.slots.long()])


def test_snapshots_are_the_states_of_shorter_calls(device):
    batch = Batch([130, 64], device)
    before = batch.pool.clone()
    out = torch.full((3, *batch.pool.shape[1:]), float("nan"), device=device)
    batch.run(snapshots=(torch.tensor([3, 0, 1], dtype=torch.int32, device=device), out))
    last, batch.pool = batch.pool, before
    assert torch.equal(out[0], last[batch.slots[1]])
    for n, at in ((1, 64), (2, 128)):
        batch.pool = before.clone()
        batch.run(slice(0, at), [at], slots=batch.slots[:1])
        assert torch.equal(out[n], batch.pool[batch.slots[0]])


def test_rows_may_be_strided(device):
    batch = Batch([40], device)
    expected, _ = batch.expected()
    C = batch.heads * batch.key
    wide = torch.cat([x.flatten(1) for x in (batch.q, batch.k, batch.v, batch.a)], 1)
    batch.q, batch.k, batch.v, batch.a = (
        x.unflatten(1, (batch.heads, -1)) for x in wide.split([C, C, wide.shape[1] - 3 * C, C], 1)
    )
    near(batch.run(), expected, 1e-4 if ON_GPU else 2e-5)


@on_gpu
@pytest.mark.parametrize("rate, bias", [(1.0, -9.0), (16.0, -2.5), (8.0, 3.0)])
def test_long(device, rate, bias):
    Batch([1000, 3000, 63], device, rate, bias, **sized()).check()


@on_gpu
def test_one_of_many_gives_the_bits_of_alone(device):
    """Alone it goes through a scan of other columns."""
    batch = Batch([200] * 160, device, **sized())
    before = batch.pool.clone()
    packed = batch.run()
    batch.pool = before
    alone = batch.run(slice(200 * 70, 200 * 71), [200], slots=batch.slots[70:71])
    assert torch.equal(alone, packed[200 * 70 : 200 * 71])


@on_gpu
def test_in_a_graph(device):
    batch = Batch([300, 70], device, **sized())
    before, packing = batch.pool.clone(), Packing.of(batch.lengths, device)
    expected = batch.run()
    rows = (batch.q, batch.k, batch.v, batch.a, batch.b, batch.A_log, batch.dt_bias)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        o = kda_prefill.kda_prefill(*rows, packing, batch.pool, batch.slots)
    batch.pool.copy_(before)
    graph.replay()
    assert torch.equal(o, expected)
