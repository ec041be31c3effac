"""What looks back along a sequence: KDA, Gated DeltaNet and Mamba2, each with a kernel for the GPU and a form for CPUs.

q, k, v [N,H,D] of B sequences of equal length, one after another; a the gate's logits, [N,H,D] for KDA, [N,H] for the
others; b [N,H] the logits of β, for Mamba2 its D; A_log [H]; dt_bias [H·D] or [H]. All give [N,H,D] in q's dtype.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.kda import CHUNK, kda_chunk, kda_recurrence


def kda(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor, batch: int) -> Tensor:
    if not q.is_cuda:
        return kda_on_cpu(q, k, v, a, b, A_log, dt_bias, batch)
    from kernels.gpu.kda_training import kda as kernel

    return kernel(q, k, v, a, b, A_log, dt_bias, _packing(len(q), batch, q.device))[0]


def gdn(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor, batch: int) -> Tensor:
    """The gated delta rule is KDA whose channels forget alike."""
    wide = a[..., None].expand(q.shape).contiguous()
    return kda(q, k, v, wide, b, A_log, dt_bias.repeat_interleave(q.shape[-1]), batch)


def gdn_by_fla(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor, batch: int
) -> Tensor:
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    g = -A_log.exp() * F.softplus(a.float() + dt_bias)
    rows = (alone(x, batch) for x in (q, k, v, g, b.float().sigmoid()))
    return beside(chunk_gated_delta_rule(*rows, use_qk_l2norm_in_kernel=True)[0], batch)


def mamba2(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor, batch: int) -> Tensor:
    """S ← e^(-A·Δ) S + Δ k vᵀ, o = Sᵀ q + D v with Δ = softplus(a + dt_bias); no β, and no norm of q and k."""
    return _mamba2(ssd, q, k, v, a, b, A_log, dt_bias, batch)


def mamba2_by_fla(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor, batch: int
) -> Tensor:
    from fla.ops.simple_gla import chunk_simple_gla

    def form(*rows: Tensor) -> Tensor:
        return chunk_simple_gla(*rows, scale=1.0)[0]

    return _mamba2(form, q, k, v, a, b, A_log, dt_bias, batch)


def _mamba2(
    form: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor,
    batch: int,
) -> Tensor:  # fmt: skip
    step = F.softplus(a.float() + dt_bias)
    written = (v.float() * step[..., None]).to(v.dtype)
    rows = (alone(x, batch) for x in (q, k, written, -A_log.exp() * step))
    return beside(form(*rows), batch) + b[..., None] * v


def alone(x: Tensor, batch: int) -> Tensor:
    """[B·T,H,…] -> [B·H,T,1,…]: every head a sequence, so that nothing is tuned again for another number of heads."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2).flatten(0, 1)[:, :, None].contiguous()


def beside(x: Tensor, batch: int) -> Tensor:
    """alone's inverse."""
    return x.squeeze(2).unflatten(0, (batch, -1)).transpose(1, 2).flatten(0, 1)


def ssd(q: Tensor, k: Tensor, v: Tensor, g: Tensor, chunk: int = 64) -> Tensor:
    """Sums decayed by one number a head, in chunks: q, k, v [B,T,H,D], g [B,T,H] fp32 log decay -> [B,T,H,D]."""
    length = q.shape[1]
    q, k, v, g = (_chunks(x, min(chunk, length)) for x in (q, k, v, g[..., None]))
    G = g[..., 0].cumsum(-1)
    within = (q @ k.mT).float() * _decay(G)
    whole = (k * (G[..., -1:] - G).exp()[..., None].to(k.dtype)).mT @ v
    total = F.pad(G[..., -1].cumsum(-1), (1, 0))
    carried = _decay(total)[..., :-1, 1:]  # of what chunk i wrote, at the start of chunk c > i
    states = torch.einsum("bhci,bhikv->bhckv", carried, whole.float())
    o = within.to(v.dtype) @ v + (q * G.exp()[..., None].to(q.dtype)) @ states.to(q.dtype)
    return o.flatten(2, 3)[:, :, :length].transpose(1, 2)


def _chunks(x: Tensor, size: int) -> Tensor:
    """[B,T,H,D] -> [B,H,chunks,size,D], zeros at the end."""
    padded = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % size))
    return padded.transpose(1, 2).unflatten(2, (-1, size))


def _decay(G: Tensor) -> Tensor:
    """e^(G_r - G_i) for i ≤ r, else 0: [..., r, i]."""
    between = G[..., :, None] - G[..., None, :]
    return between.masked_fill(between.new_ones(between.shape[-2:]).triu(1).bool(), float("-inf")).exp()


def kda_on_cpu(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor, batch: int
) -> Tensor:
    """The engine's own forms, which autograd can walk back; the sequences side by side, as if they were heads."""
    heads, dim = q.shape[1:]
    g = -A_log.exp()[:, None] * F.softplus(a.float() + dt_bias.view(heads, dim))
    rows = (_unit(q) * dim**-0.5, _unit(k), v.float(), g, b.float().sigmoid())
    wide = [x.unflatten(0, (batch, -1)).transpose(0, 1).flatten(1, 2) for x in rows]
    form = kda_recurrence if len(q) // batch < CHUNK else kda_chunk
    o = form(*wide, q.new_zeros(batch * heads, dim, dim, dtype=torch.float32))[0]
    return o.unflatten(1, (batch, heads)).transpose(0, 1).flatten(0, 1).to(q.dtype)


def _unit(x: Tensor) -> Tensor:
    return x.float() * torch.rsqrt(x.float().square().sum(-1, keepdim=True) + 1e-6)


_packings: dict[tuple[int, int], object] = {}


def _packing(rows: int, batch: int, device: torch.device):
    from kernels.gpu.packing import Packing

    if (rows, batch) not in _packings:
        _packings[rows, batch] = Packing.of([rows // batch] * batch, device)
    return _packings[rows, batch]


FORMS = {
    "own": {"kda": kda, "gdn": gdn, "mamba2": mamba2},
    "fla": {"kda": kda, "gdn": gdn_by_fla, "mamba2": mamba2_by_fla},
}
