"""The mixture of experts: who is chosen, and what the chosen compute (model-spec §2.6)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.linear import linear, matmul_wide
from kernels.norm import wide
from kernels.pointwise import sigmoid, silu


def route(
    x: Tensor,
    gate_weight: Tensor,
    bias: Tensor,
    top_k: int,
    scale: float,
    renormalize: bool,
    bias_in_weights: bool = False,
) -> tuple[Tensor, Tensor]:
    """Chooses top_k experts by ``sigmoid(x·Wᵀ) + bias``; weighs them by the sigmoid alone. All in fp32.

    x [T,D], gate_weight [E,D], bias [E] -> (indices [T,k] int64, weights [T,k]). With renormalize the weights sum to
    ``scale``; the scale comes after (model-spec §7.4, 12). bias_in_weights repeats a slip of the released remote code,
    which adds the bias to the scores in place (§2.6): only to reproduce its logits.
    """
    scores = sigmoid(matmul_wide(x, gate_weight.T))
    indices = torch.topk(scores + wide(bias), top_k, dim=-1).indices
    weights = (scores + wide(bias) if bias_in_weights else scores).gather(-1, indices)
    if renormalize:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return indices, weights * scale


def moe_reference(x: Tensor, indices: Tensor, weights: Tensor, w1: Tensor, w3: Tensor, w2: Tensor) -> Tensor:
    """``y_t = Σ_e weight_te · W2_e( SiLU(W1_e x_t) ⊙ W3_e x_t )``, token by token.

    x [T,D]; indices, weights [T,k]; w1 (gate), w3 (up) [E,I,D]; w2 (down) [E,D,I] -> [T,D].
    """
    y = torch.zeros_like(x)
    for t in range(x.shape[0]):
        for e, weight in zip(indices[t].tolist(), weights[t], strict=True):
            y[t] += weight * (w2[e] @ (F.silu(w1[e] @ x[t]) * (w3[e] @ x[t])))
    return y


def moe(x: Tensor, indices: Tensor, weights: Tensor, w1: Tensor, w3: Tensor, w2: Tensor) -> Tensor:
    """The same, expert by expert over the tokens that chose it; the sum is kept in fp32."""
    y = torch.zeros(x.shape, dtype=wide(x).dtype, device=x.device)
    order = indices.flatten().argsort(stable=True)
    tokens, scale = order // indices.shape[1], weights.flatten()[order]
    start = 0
    for e, count in enumerate(torch.bincount(indices.flatten(), minlength=w1.shape[0]).tolist()):
        if count:
            rows = tokens[start : start + count]
            y.index_add_(0, rows, _expert(x[rows], w1[e], w3[e], w2[e]) * scale[start : start + count, None])
            start += count
    return y.to(x.dtype)


def weigh_experts(hidden: Tensor, indices: Tensor, weights: Tensor, experts: int) -> Tensor:
    """Multiplies the inner activations of every expert by its weight, zero where it was not chosen; in place.

    hidden [T, experts·I], all experts side by side. With their down projections side by side too, the mixture is one
    wide SwiGLU: faster than expert by expert when experts are few and small.
    """
    table = torch.zeros(hidden.shape[0], experts, dtype=hidden.dtype, device=hidden.device)
    table.scatter_(1, indices, weights.to(hidden.dtype))
    hidden.unflatten(1, (experts, -1)).mul_(table[..., None])
    return hidden


def _expert(x: Tensor, w1: Tensor, w3: Tensor, w2: Tensor) -> Tensor:
    return linear(silu(linear(x, w1)).mul_(linear(x, w3)), w2)
