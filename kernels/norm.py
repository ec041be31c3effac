"""The three normalisations. Statistics are always taken in fp32 (or fp64 when the input is fp64)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.pointwise import sigmoid


def wide(x: Tensor) -> Tensor:
    """``x`` in at least fp32: the dtype in which sums, exponentials and states are computed."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``w ⊙ x / sqrt(mean(x²) + eps)`` over the last axis. x [..., D], weight [D] -> [..., D] in x's dtype.

    Source: Zhang and Sennrich 2019; multiplied by the weight before the cast, as vLLM does (model-spec §2.1).
    """
    if x.is_cuda:
        return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)  # one pass, the same order of operations
    x32 = wide(x)
    scale = torch.rsqrt(x32.square().mean(-1, keepdim=True).add_(eps))
    return (x32 * scale * wide(weight)).to(x.dtype)


def gated_rms_norm(o: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``rms_norm(o) ⊙ sigmoid(gate)``, per head, one weight for all heads; cast once at the end (model-spec §2.2, 7).

    o [..., H, V] fp32, gate [..., H, V], weight [V] -> [..., H, V] in gate's dtype.
    """
    return rms_norm(wide(o), weight, eps).mul_(sigmoid(wide(gate))).to(gate.dtype)


def l2_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """``x / sqrt(Σ x² + eps)`` over the last axis, in fp32 (model-spec §2.2, 3: the eps stands inside the root)."""
    if x.is_cuda:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide(x).dtype)
        return x * torch.rsqrt(length.square_().add_(eps))
    x32 = wide(x)
    return x32 * torch.rsqrt(x32.square().sum(-1, keepdim=True).add_(eps))
