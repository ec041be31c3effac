"""Kimi delta attention for training without a GPU: the engine's own chunkwise form, which autograd can walk back."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.kda import kda_chunk


def remember_in_chunks(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, a_log: Tensor, dt_bias: Tensor, row
) -> Tensor:
    """What lab.mixers.remember gives, fp32: q, k, v, decay [N,H,D], logits of β [N,H] of a row -> [N,H,D]."""
    g = -a_log.exp()[:, None] * F.softplus(decay.float() + dt_bias.view(decay.shape[1:]))
    q, k = _unit(q) * q.shape[-1] ** -0.5, _unit(k)
    blank = q.new_zeros(q.shape[1], q.shape[2], v.shape[2])
    sizes = row.ends.diff().tolist()
    parts = zip(*(x.split(sizes) for x in (q, k, v.float(), g, beta.float().sigmoid())), strict=True)
    return torch.cat([kda_chunk(q, k, v, g, beta, blank)[0] for q, k, v, g, beta in parts]).to(decay.dtype)


def _unit(x: Tensor) -> Tensor:
    return x.float() * torch.rsqrt(x.float().square().sum(-1, keepdim=True) + 1e-6)
