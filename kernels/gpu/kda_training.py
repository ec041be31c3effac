"""Kimi Delta Attention with gradients, for training: packed sequences, norms and gates included (model-spec §2.2)."""

from typing import Any

import torch
from torch import Tensor

from kernels.gpu import kda_backward, kda_forward
from kernels.gpu.packing import Packing


def kda(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor,
    packing: Packing, state: Tensor | None = None, lower_bound: float | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """-> (o [T,H,V] in q's dtype, final state [N,H,K,V] fp32); differentiable in every tensor given.

    q, k [T,H,K] and v [T,H,V] as they leave the short convolution, not normalised; a [T,H,K] logits of the gate: with
    z = a + dt_bias g = -e^A_log · softplus(z), unbounded, or given ``lower_bound`` (-5, say) that times σ(e^A_log · z);
    b [T,H] logits of β; A_log [H] and dt_bias [H·K] fp32. ``state`` [N,H,K,V] fp32: where each sequence starts, None
    for zeros. K and V are powers of two up to 128, on a GPU from 64 and 32 on: bf16 with K = 32, V = 16 came out wrong
    on an H200, for a reason not found.
    """
    if q.is_cuda and (q.shape[-1] not in (64, 128) or v.shape[-1] not in (32, 64, 128)):
        raise ValueError(f"K = {q.shape[-1]} and V = {v.shape[-1]}: K must be 64 or 128, V 32, 64 or 128")
    return _Kda.apply(q, k, v, a, b, A_log, dt_bias, packing, state, lower_bound)


class _Kda(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor,
        packing: Packing, state: Tensor | None, lower_bound: float | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        q, k, v, a, b = (_by_rows(x) for x in (q, k, v, a, b))
        A_log, dt_bias = A_log.float().contiguous(), dt_bias.float().contiguous()
        state = None if state is None else state.float().contiguous()
        o, final, factors = kda_forward.forward(q, k, v, a, b, A_log, dt_bias, packing, state, lower_bound)
        ctx.set_materialize_grads(False)
        ctx.packing, ctx.state, ctx.lower_bound = packing, state is not None, lower_bound
        ctx.save_for_backward(o, v, a, b, A_log, dt_bias, *vars(factors).values())
        return o, final

    @staticmethod
    def backward(ctx: Any, do: Tensor | None, d_final: Tensor | None) -> tuple[Tensor | None, ...]:
        o, v, a, b, A_log, dt_bias, *factors = ctx.saved_tensors
        do = torch.zeros_like(o) if do is None else _by_rows(do)
        d_final = None if d_final is None else d_final.contiguous()
        kept = kda_forward.Factors(*factors)
        gate = a, b, A_log, dt_bias
        *rows, d_state = kda_backward.backward(do, d_final, o, v, *gate, ctx.packing, kept, ctx.lower_bound)
        return *rows, None, d_state if ctx.state else None, None


def _by_rows(x: Tensor) -> Tensor:
    """Rows may be strided; what is in a row may not."""
    return x if x[0].is_contiguous() else x.contiguous()
