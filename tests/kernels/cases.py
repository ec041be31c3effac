"""Inputs for the kernel tests, and the one comparison that says where two tensors differ."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class KdaCase:
    """K and V differ, so a swapped state cannot pass. ``decay``: nats that one token may take from a channel."""

    tokens: int
    decay: float
    heads: int = 2
    key: int = 16
    value: int = 24
    dtype: torch.dtype = torch.float64

    def make(self) -> tuple[Tensor, ...]:
        """(q, k, v, g, beta, state); some decays are near 0, some near -decay."""
        generator = torch.Generator().manual_seed(self.tokens)

        def randn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        q, k = (F.normalize(randn(self.tokens, self.heads, self.key), dim=-1) for _ in range(2))
        g = -self.decay * torch.rand(q.shape, generator=generator, dtype=torch.float64) ** 6
        beta = torch.sigmoid(2 * randn(self.tokens, self.heads))
        v, state = randn(self.tokens, self.heads, self.value), randn(self.heads, self.key, self.value)
        return tuple(x.to(self.dtype) for x in (q * self.key**-0.5, k, v, g, beta, state))


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Largest difference, relative to the largest expected value."""
    assert found.shape == expected.shape, f"{tuple(found.shape)} is not {tuple(expected.shape)}"
    assert found.isfinite().all(), f"{int((~found.isfinite()).sum())} values are not finite"
    error = (found.double() - expected.double()).abs()
    worst = float(error.max() / expected.abs().max().clamp_min(1e-30))
    place = [int(i) for i in torch.unravel_index(error.argmax(), error.shape)]
    assert worst <= tolerance, f"relative error {worst:.2e} at {place}, allowed {tolerance:.0e}"
