"""kda_decode against the definitions in float64: convolution, norms, gate, recurrence and gated norm by tokens."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from kernels import gated_rms_norm, kda_gate, kda_recurrence, l2_norm, short_conv_reference
from tests.kernels.cases import assert_near
from tests.kernels.gpu.conftest import ON_GPU

pytest.importorskip("triton")
import kernels.gpu.kda_decode
from kernels.gpu.kda_decode import kda_decode

EPS = 1e-5
on_gpu = pytest.mark.skipif(not ON_GPU, reason="large: on a GPU")


@dataclass
class Layer:
    """Weights of a layer and its pools, poisoned but for the slots in use."""

    conv_weight: Tensor
    A_log: Tensor
    dt_bias: Tensor
    o_norm: Tensor
    conv_pool: Tensor
    pool: Tensor
    dtype: torch.dtype
    lower_bound: float | None = None

    @classmethod
    def make(
        cls, slots: list[int], device, heads=2, key=16, value=32, width=4, dtype=torch.float32, rate=0.0, lower=None
    ):
        channels, top = heads * (2 * key + value), max([0, *slots]) + 2
        conv_pool = torch.full((top, width - 1, channels), torch.nan, dtype=dtype, device=device)
        pool = torch.full((top, heads, key, value), torch.nan, device=device)
        for slot in slots:
            if slot >= 0:
                conv_pool[slot] = torch.randn(width - 1, channels, device=device).to(dtype)
                pool[slot] = torch.randn(heads, key, value, device=device)
        weight = (torch.randn(channels, width) / 2).to(device, dtype)
        A_log, dt_bias = torch.rand(heads) * 2.7, torch.randn(heads * key) * 2 - 3 + rate
        o_norm = 1 + torch.randn(value) / 4
        return cls(weight, A_log.to(device), dt_bias.to(device), o_norm.to(device), conv_pool, pool, dtype, lower)

    def rows(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(raw, a, b, z) of ``count`` tokens."""
        heads, key, value = self.pool.shape[1:]
        sizes = (self.conv_weight.shape[0], heads * key, heads, heads * value)
        raw, a, b, z = (torch.randn(count, n).to(self.pool.device, self.dtype) for n in sizes)
        return raw, a, b, z

    def step(self, raw: Tensor, a: Tensor, b: Tensor, z: Tensor, slots: list[int]) -> Tensor:
        numbers = torch.tensor(slots, dtype=torch.int32, device=raw.device)
        weights, rest = (self.A_log, self.dt_bias, self.o_norm, EPS), (self.pool, numbers, self.lower_bound)
        return kda_decode(raw, self.conv_weight, self.conv_pool, a, b, z, *weights, *rest)

    def defined(self, slot: int, raw: Tensor, a: Tensor, b: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All tokens of one sequence from ``slot``'s contents on -> (y [T,H·V], history, state) in float64."""
        heads, key, value = self.pool.shape[1:]
        wide = [x.double().cpu() for x in (raw, a, b, z, self.conv_weight, self.conv_pool[slot], self.pool[slot])]
        raw, a, b, z, weight, history, state = wide
        mixed, history = short_conv_reference(raw, weight, history)
        q, k, v = (x.unflatten(1, (heads, -1)) for x in mixed.split([heads * key, heads * key, heads * value], 1))
        rates = self.A_log.double().cpu(), self.dt_bias.double().cpu()
        g = kda_gate(a, *rates) if self.lower_bound is None else self.bounded_gate(a, *rates)
        o, state = kda_recurrence(l2_norm(q) * key**-0.5, l2_norm(k), v, g, torch.sigmoid(b), state)
        y = gated_rms_norm(o, z.unflatten(1, (heads, -1)), self.o_norm.double().cpu(), EPS)
        return y.flatten(1), history, state

    def bounded_gate(self, a: Tensor, A_log: Tensor, dt_bias: Tensor) -> Tensor:
        """[T,H,K]; a scaled sigmoid (model-spec §7.1)."""
        z = (a + dt_bias).unflatten(1, (len(A_log), -1))
        return self.lower_bound * torch.sigmoid(A_log.exp()[:, None] * z)


LARGE = {"heads": 32, "key": 128, "value": 128}


@pytest.mark.parametrize(
    ("slots", "shape"),
    [
        ([0], {}),
        ([3, 0, 5], {}),
        ([2, -1, 0], {"width": 3}),
        ([1, 0], {"key": 32, "value": 8, "heads": 1}),
        ([0, 1], {"dtype": torch.bfloat16}),
        ([0, 1], {"rate": 20.0}),  # A up to 15, softplus about 20: some channels forget by e^-200 and more in one token
        ([0, 1], {"rate": -12.0}),  # and some next to nothing
        ([1, 0], {"lower": -5.0, "rate": 3.0}),
        pytest.param([4, -1, 0, 7], LARGE, marks=on_gpu),
        pytest.param([4200, 0], LARGE, marks=on_gpu),  # beyond the 2^31st value of the pool
        pytest.param(list(range(0, 130, 2)), LARGE | {"dtype": torch.bfloat16}, marks=on_gpu),
        pytest.param([4, -1, 0, 7], LARGE | {"lower": -5.0, "rate": 3.0}, marks=on_gpu),
    ],
)
def test_a_token_is_what_the_definition_says(slots, shape, device):
    layer = Layer.make(slots, device, **shape)
    rows = layer.rows(len(slots))
    expected = [layer.defined(s, *(x[i : i + 1] for x in rows)) if s >= 0 else None for i, s in enumerate(slots)]
    y = layer.step(*rows, slots)
    assert y.dtype == layer.dtype
    for i, slot in enumerate(slots):
        if expected[i] is None:
            assert (y[i] == 0).all()
            continue
        right, history, state = expected[i]
        assert_near(y[i : i + 1].cpu(), right, 1e-4 if layer.dtype == torch.float32 else 1e-2)
        assert_near(layer.pool[slot].cpu(), state, 1e-5)
        assert torch.equal(layer.conv_pool[slot].double().cpu(), history)
    unused = [s for s in range(layer.pool.shape[0]) if s not in slots]
    assert layer.pool[unused].isnan().all() and layer.conv_pool[unused].isnan().all()


def test_an_idle_row_reads_and_writes_nothing(device):
    layer = Layer.make([], device)
    rows = [torch.full_like(x, torch.nan) for x in layer.rows(2)]
    assert (layer.step(*rows, [-1, -1]) == 0).all()
    assert layer.pool.isnan().all() and layer.conv_pool.isnan().all()


def test_rows_and_pools_may_be_views_with_a_stride(device):
    layer = Layer.make([1, 0], device)
    plain = Layer(**{**vars(layer), "pool": layer.pool.clone(), "conv_pool": layer.conv_pool.clone()})
    rows = layer.rows(2)
    expected = plain.step(*rows, [1, 0])
    layer.pool, layer.conv_pool = (torch.stack([x, x], 1)[:, 1] for x in (layer.pool, layer.conv_pool))
    rows = [torch.cat([x, x], 1)[:, : x.shape[1]] for x in rows]
    assert torch.equal(layer.step(*rows, [1, 0]), expected)
    assert torch.equal(layer.pool[:2], plain.pool[:2]) and torch.equal(layer.conv_pool[:2], plain.conv_pool[:2])


@pytest.mark.parametrize("shape", [{}, pytest.param(LARGE, marks=on_gpu)])
@pytest.mark.parametrize("slots", [[5, 2, -1, 0], pytest.param(list(range(300)), marks=on_gpu)])
def test_a_row_has_the_same_bits_alone(slots, shape, device):
    layer = Layer.make(slots, device, **shape, dtype=torch.bfloat16)
    pools = layer.conv_pool.clone(), layer.pool.clone()
    rows = layer.rows(len(slots))
    together = layer.step(*rows, slots)
    left = layer.conv_pool.clone(), layer.pool.clone()
    for i in {0, 1, len(slots) // 2, len(slots) - 1}:
        layer.conv_pool.copy_(pools[0])
        layer.pool.copy_(pools[1])
        alone = layer.step(*(x[i : i + 1] for x in rows), slots[i : i + 1])
        assert torch.equal(alone[0], together[i])
        if slots[i] >= 0:
            assert torch.equal(layer.conv_pool[slots[i]], left[0][slots[i]])
            assert torch.equal(layer.pool[slots[i]], left[1][slots[i]])


@pytest.mark.parametrize(
    ("tokens", "shape"),
    [
        (200, {"heads": 1, "key": 8, "value": 4}),
        pytest.param(2000, LARGE | {"heads": 4}, marks=on_gpu),
        pytest.param(300, LARGE | {"dtype": torch.bfloat16}, marks=on_gpu),
    ],
)
def test_tokens_one_by_one_do_not_drift_from_the_sequence(tokens, shape, device):
    """A state as a prefill left it, then decoding: nothing is lost over hundreds of steps."""
    layer = Layer.make([2], device, **shape, rate=-2.0)
    rows = layer.rows(tokens)
    right, history, state = layer.defined(2, *rows)
    y = torch.cat([layer.step(*(x[t : t + 1] for x in rows), [2]) for t in range(tokens)])
    assert_near(y.cpu(), right, 2e-4 if layer.dtype == torch.float32 else 2e-2)
    assert_near(layer.pool[2].cpu(), state, 1e-4)
    assert torch.equal(layer.conv_pool[2].double().cpu(), history)


@on_gpu
@pytest.mark.parametrize("early", [0, 512])
def test_a_graph_replays_steps(early, device, monkeypatch):
    """Each step needs what the step before it left, also where launches overlap."""
    slots = [0, 3, 1]
    layer = Layer.make(slots, device, **LARGE, dtype=torch.bfloat16)
    plain, warm = (
        Layer(**{**vars(layer), "pool": layer.pool.clone(), "conv_pool": layer.conv_pool.clone()}) for _ in range(2)
    )
    rows, numbers = layer.rows(3), torch.tensor(slots, dtype=torch.int32, device=device)

    monkeypatch.setattr(kernels.gpu.kda_decode, "EARLY", early)

    def steps(x: Layer, apart: bool) -> Tensor:
        raw, a, b, z = rows
        weights = (x.A_log, x.dt_bias, x.o_norm, EPS)
        for _ in range(5):
            y = kda_decode(raw, x.conv_weight, x.conv_pool, a, b, z, *weights, x.pool, numbers)
            if apart:
                torch.cuda.synchronize()
        return y

    expected = [steps(plain, True).clone() for _ in range(4)]
    steps(warm, False)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = steps(layer, False)
    for right in expected:
        graph.replay()
        assert torch.equal(y, right)
    assert torch.equal(layer.pool[slots], plain.pool[slots])
    assert torch.equal(layer.conv_pool[slots], plain.conv_pool[slots])
