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

NAMES = ("o", "state", "dq", "dk", "dv", "da", "db", "dA_log", "ddt_bias", "dstate")
SHORT, RAGGED = [1, 17], [5, 65, 60]


@dataclass(frozen=True)
class Case:
    lengths: Sequence[int]
    heads: int = 2
    key: int = 32
    value: int = 16
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


def found(inputs: list[Tensor], gradients: list[Tensor], lengths: Sequence[int]) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    *given, state = leaves
    outputs = kda(*given, Packing.of(lengths, given[0].device), state)
    return [*outputs, *torch.autograd.grad(outputs, leaves, gradients)]


def wanted(inputs: list[Tensor], gradients: list[Tensor], lengths: Sequence[int]) -> list[Tensor]:
    leaves = [x.double().requires_grad_() for x in inputs]
    q, k, v, a, b, A_log, dt_bias, state = leaves
    unit_q, unit_k = (x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6) for x in (q, k))
    g = -A_log.exp()[:, None] * F.softplus(a + dt_bias.view(a.shape[1:]))
    rows = [x.split(list(lengths)) for x in (unit_q * q.shape[-1] ** -0.5, unit_k, v, g, b.sigmoid())]
    ends = [kda_recurrence(*part) for part in zip(*rows, state, strict=True)]
    outputs = torch.cat([o for o, _ in ends]), torch.stack([last for _, last in ends])
    return [*outputs, *torch.autograd.grad(outputs, leaves, [x.double() for x in gradients])]


def assert_close(results: list[Tensor], expected: list[Tensor], tolerance: dict[str, float] | float) -> None:
    """Relative Frobenius errors."""
    errors = {}
    for name, x, y in zip(NAMES, results, expected, strict=True):
        assert x.shape == y.shape and x.isfinite().all(), name
        errors[name] = float((x.detach().double() - y.detach()).norm() / y.detach().norm())
    limits = tolerance if isinstance(tolerance, dict) else dict.fromkeys(NAMES, tolerance)
    assert all(errors[name] <= limits[name] for name in NAMES), " ".join(f"{n} {x:.1e}" for n, x in errors.items())


@pytest.mark.parametrize("gate", ["mixed", "slow", "fast", "deep", "same keys"])
@pytest.mark.parametrize("lengths", [SHORT, RAGGED])
def test_equals_the_recurrence(lengths, gate, device):
    case = Case(lengths, gate=gate).make(device, torch.float32)
    assert_close(found(*case, lengths), wanted(*case, lengths), 1e-3)
