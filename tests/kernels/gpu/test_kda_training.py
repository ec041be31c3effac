"""kernels/gpu/kda_training.py against float64 autograd of the recurrence, outputs and every gradient."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import kda_recurrence
from kernels.gpu.kda_training import kda
from kernels.gpu.packing import Packing
from tests.kernels.gpu.conftest import ON_GPU

NAMES = ("o", "state", "dq", "dk", "dv", "da", "db", "dA_log", "ddt_bias", "dstate")
SUM = 0.03  # dA_log in bf16: one number a head, the sum over all tokens and channels of terms of both signs
SHORT, RAGGED = [1, 17], [5, 65, 60]


@dataclass(frozen=True)
class Case:
    lengths: Sequence[int]
    heads: int = 2
    key: int = 128 if ON_GPU else 32
    value: int = 64 if ON_GPU else 16
    gate: str = "mixed"

    def make(self, device: torch.device, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        """((q, k, v, a, b, A_log, dt_bias, state), gradients of (o, final state)), rounded to what the kernel takes."""
        tokens, H, K, V, N = sum(self.lengths), self.heads, self.key, self.value, len(self.lengths)
        q, k, v = (torch.randn(tokens, H, width) for width in (K, K, V))
        if self.gate == "same keys":
            k = k[:1].expand_as(k).clone()
        b, A_log, dt_bias = 2 * torch.randn(tokens, H), torch.rand(H), torch.randn(H * K) / 2
        state, do, d_final = torch.randn(N, H, K, V), torch.randn(tokens, H, V), torch.randn(N, H, K, V)
        rows = [x.to(device, dtype) for x in (q, k, v, self.logits(tokens), b)]
        return [*rows, *(x.to(device) for x in (A_log, dt_bias, state))], [do.to(device, dtype), d_final.to(device)]

    def logits(self, tokens: int) -> Tensor:
        """Decays of about 1 nat a token, 6 nats, near 0, or for one token of three up to 200."""
        a = torch.randn(tokens, self.heads, self.key)
        if self.gate in ("slow", "same keys"):
            return a - 9
        if self.gate == "fast":
            return a / 4 + 3
        return torch.where(torch.rand(a.shape) < 0.3, 100 * torch.rand(a.shape), a - 4) if self.gate == "deep" else a


def found(
    inputs: list[Tensor], gradients: list[Tensor], lengths: Sequence[int], lower_bound: float | None = None
) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    *given, state = leaves
    outputs = kda(*given, Packing.of(lengths, given[0].device), state, lower_bound)
    return [*outputs, *torch.autograd.grad(outputs, leaves, gradients)]


def wanted(
    inputs: list[Tensor], gradients: list[Tensor], lengths: Sequence[int], lower_bound: float | None = None
) -> list[Tensor]:
    leaves = [x.double().requires_grad_() for x in inputs]
    q, k, v, a, b, A_log, dt_bias, state = leaves
    unit_q, unit_k = (x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6) for x in (q, k))
    z, rate = a + dt_bias.view(a.shape[1:]), A_log.exp()[:, None]
    g = -rate * F.softplus(z) if lower_bound is None else lower_bound * (rate * z).sigmoid()
    rows = [x.split(list(lengths)) for x in (unit_q * q.shape[-1] ** -0.5, unit_k, v, g, b.sigmoid())]
    ends = [kda_recurrence(*part) for part in zip(*rows, state, strict=True)]
    outputs = torch.cat([o for o, _ in ends]), torch.stack([last for _, last in ends])
    return [*outputs, *torch.autograd.grad(outputs, leaves, [x.double() for x in gradients])]


def assert_close(results: list[Tensor], expected: list[Tensor], limit: float, **limits: float) -> None:
    """Relative Frobenius errors."""
    errors = {}
    for name, x, y in zip(NAMES, results, expected, strict=True):
        assert x.shape == y.shape and x.isfinite().all(), name
        errors[name] = float((x.detach().double() - y.detach()).norm() / y.detach().norm())
    wrong = [n for n, error in errors.items() if error > limits.get(n, limit)]
    assert not wrong, " ".join(f"{n} {error:.1e}" for n, error in errors.items())


@pytest.mark.skipif(not ON_GPU, reason="too long for the interpreter")
@pytest.mark.parametrize("gate", ["mixed", "slow", "fast", "deep"])
def test_full_width(gate, device):
    lengths = [1, 63, 64, 65, 255, 257, 500]
    case = Case(lengths, heads=4, key=128, value=128, gate=gate).make(device, torch.bfloat16)
    results = found(*case, lengths)
    assert_close(results, wanted(*case, lengths), 1e-2, dA_log=SUM)
    assert all(torch.equal(x, y) for x, y in zip(results, found(*case, lengths), strict=True))


@pytest.mark.parametrize("gate", ["mixed", "slow", "fast", "deep", "same keys"])
@pytest.mark.parametrize("lengths", [SHORT, RAGGED])
def test_equals_the_recurrence(lengths, gate, device):
    """fp32. On a GPU its products are TF32. Of a gate that leaves little, dg is a small difference of large sums."""
    case = Case(lengths, gate=gate).make(device, torch.float32)
    limit = 8e-3 if ON_GPU else 1e-3 if gate in ("fast", "deep") else 5e-5
    assert_close(found(*case, lengths), wanted(*case, lengths), limit)


@pytest.mark.parametrize("gate", ["mixed", "deep", "same keys"])
def test_bf16(gate, device):
    """The interpreter cuts off what a GPU rounds. With identical keys what is written all but cancels."""
    case = Case(RAGGED, gate=gate).make(device, torch.bfloat16)
    limits = {"dv": 0.03, "db": 0.05} if gate == "same keys" else {}
    assert_close(found(*case, RAGGED), wanted(*case, RAGGED), 1e-2 if ON_GPU else 3e-2, dA_log=SUM, **limits)


def test_bounded_gate(device):
    """Some 2 nats a token, 5 at most."""
    case = Case(RAGGED).make(device, torch.float32)
    assert_close(found(*case, RAGGED, -5.0), wanted(*case, RAGGED, -5.0), 8e-3 if ON_GPU else 5e-5)


@pytest.mark.parametrize("key, value", [(128, 64), (64, 128)])
def test_channels_in_several_parts(key, value, device):
    case = Case([70], heads=1, key=key, value=value).make(device, torch.float32)
    assert_close(found(*case, [70]), wanted(*case, [70]), 8e-3 if ON_GPU else 5e-5)


def test_packed_is_the_same_bits_as_separate(device):
    inputs, gradients = Case(RAGGED).make(device, torch.bfloat16)
    packed = found(inputs, gradients, RAGGED)
    rows = [torch.split(x, RAGGED) for x in (*inputs[:5], gradients[0])]
    for n, (q, k, v, a, b, do) in enumerate(zip(*rows, strict=True)):
        alone = found(
            [q, k, v, a, b, *inputs[5:7], inputs[7][n : n + 1]], [do, gradients[1][n : n + 1]], RAGGED[n : n + 1]
        )
        for name, x, y in zip(NAMES, packed, alone, strict=True):
            if name in ("dA_log", "ddt_bias"):
                continue  # one sum over all sequences
            per_sequence = name in ("state", "dstate")
            part = x[n : n + 1] if per_sequence else torch.split(x, RAGGED)[n]
            assert torch.equal(part, y), name


def test_rows_may_be_strided_and_nothing_unwritten_is_read(device, monkeypatch):
    """Views of wider rows; a gradient that is one number, expanded; every buffer begins as NaN."""
    inputs, gradients = Case(RAGGED).make(device, torch.float32)
    expected = found(inputs, [torch.ones_like(gradients[0]), gradients[1]], RAGGED)
    views = [torch.cat([x, x], 1)[:, :2] for x in inputs[:3]]
    empty, empty_like = torch.empty, torch.empty_like

    def nan(x: Tensor) -> Tensor:
        return x.fill_(torch.nan) if x.is_floating_point() else x.fill_(3)

    monkeypatch.setattr(torch, "empty", lambda *shape, **named: nan(empty(*shape, **named)))
    monkeypatch.setattr(torch, "empty_like", lambda *x, **named: nan(empty_like(*x, **named)))
    leaves = [x.detach().requires_grad_() for x in (*views, *inputs[3:])]
    assert not leaves[0].is_contiguous()
    outputs = kda(*leaves[:7], Packing.of(RAGGED, device), leaves[7])
    one = torch.ones(1, 1, 1, device=device).expand_as(outputs[0])
    results = [*outputs, *torch.autograd.grad(outputs, leaves, [one, gradients[1]])]
    assert all(torch.equal(x, y) for x, y in zip(results, expected, strict=True))


def test_without_states(device):
    """No state given is a state of zeros; no gradient of the last state is one of zeros."""
    inputs, (do, d_final) = Case(RAGGED).make(device, torch.float32)
    expected = found([*inputs[:7], torch.zeros_like(inputs[7])], [do, torch.zeros_like(d_final)], RAGGED)
    leaves = [x.detach().clone().requires_grad_() for x in inputs[:7]]
    o, final = kda(*leaves, Packing.of(RAGGED, device))
    results = [o, final, *torch.autograd.grad(o, leaves, do)]
    assert all(torch.equal(x, y) for x, y in zip(results, expected[:-1], strict=True))
