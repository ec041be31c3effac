"""Kimi Delta Attention: the gate, the recurrence that defines it, and its chunkwise form (model-spec §2.2, §4).

Shapes: q, k, g [T,H,K]; v [T,H,V]; beta [T,H]; state [H,K,V] fp32. q and k come L2-normalised, q already carries
K^-1/2. g is a natural logarithm, ≤ 0 and unbounded below: a single token may decay a channel by e^-200. Therefore no
exponent here is ever positive: a product of decays is split only at an anchor that lies between its two rows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 64  # rows of the grid; it starts at row 0 of every call
DIAGONAL = 8  # side of the diagonal blocks whose decays are formed one by one


def kda_gate(a: Tensor, A_log: Tensor, dt_bias: Tensor) -> Tensor:
    """Log decay ``-exp(A_log[h]) · softplus(a + dt_bias)``, fp32. a [T,H·K], A_log [H], dt_bias [H·K] -> [T,H,K]."""
    rate = F.softplus(a.to(dt_bias.dtype) + dt_bias)
    return rate.view(a.shape[0], A_log.numel(), -1) * -torch.exp(A_log.view(-1, 1))


def kda_recurrence(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The definition, token by token: decay, write what the decayed memory got wrong, then read.

    S ← diag(e^g) S;  n = β (v − Sᵀk);  S ← S + k nᵀ;  o = Sᵀ q.   Returns (o [T,H,V], state [H,K,V]).
    """
    rows = []
    for t in range(q.shape[0]):
        o, state = kda_step(q[t], k[t], v[t], g[t], beta[t], state)
        rows.append(o)
    return torch.stack(rows), state


def kda_step(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token of the recurrence. q, k, g [...,H,K]; v [...,H,V]; beta [...,H]; state [...,H,K,V] -> (o, state)."""
    state = state * g.exp().unsqueeze(-1)
    error = v - (k.unsqueeze(-2) @ state).squeeze(-2)
    state = state + k.unsqueeze(-1) * (beta.unsqueeze(-1) * error).unsqueeze(-2)
    return (q.unsqueeze(-2) @ state).squeeze(-2), state


def kda_chunk(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The same result for many tokens, 64 rows at a time. A call cut at a multiple of 64 gives the same bits."""
    if q.is_cuda and q.shape[-1] == v.shape[-1]:
        return _kda_chunk_fla(q, k, v, g, beta, state)
    tokens = q.shape[0]
    pad = -tokens % CHUNK
    qk = F.pad(torch.stack([q, k], 2), (0, 0, 0, 0, 0, 0, 0, pad)).transpose(0, 1).contiguous()
    v, g = (F.pad(x, (0, 0, 0, 0, 0, pad)).transpose(0, 1) for x in (v, g))
    beta = F.pad(beta, (0, 0, 0, pad)).T.unsqueeze(-1)
    out = []
    for start in range(0, tokens, CHUNK):
        rows = slice(start, start + CHUNK)
        o, state = _chunk(qk[:, rows], v[:, rows], g[:, rows], beta[:, rows], state)
        out.append(o)
    return torch.cat(out, 1).transpose(0, 1)[:tokens], state


def _chunk(qk: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One chunk. qk [H,C,2,K]; v [H,C,V]; g [H,C,K]; beta [H,C,1]; state [H,K,V]. Rows of zeros leave the state alone.

    With G the running sum of g, P and M the decayed products of q and of k with k, and L = β ⊙ M below the diagonal:
    (I + L) N = β (V − (e^G K) S₀);  O = (e^G Q) S₀ + P N;  S = e^{G_C} S₀ + (e^{G_C − G} K)ᵀ N   (model-spec §4.1).
    """
    heads, rows, _, width = qk.shape
    G = g.cumsum(1)
    P, M = decayed_products(qk, G).unbind(2)
    read = (qk * G.exp().unsqueeze(2)).view(heads, 2 * rows, width) @ state
    q_read, k_read = read.view(heads, rows, 2, -1).unbind(2)
    N = torch.linalg.solve_triangular(beta * M.tril(-1), beta * (v - k_read), upper=False, unitriangular=True)
    o = torch.baddbmm(q_read, P.tril(), N)
    last = G[:, -1:]
    k_left = qk[:, :, 1] * (last - G).exp()
    return o, torch.baddbmm(state * last.exp().transpose(1, 2), k_left.transpose(1, 2), N)


def decayed_products(qk: Tensor, G: Tensor) -> Tensor:
    """``Σ_c x_rc k_ic e^{G_rc − G_ic}`` for x = q and x = k. qk [H,C,2,K], G [H,C,K] -> [H,C,2,C], right for i ≤ r.

    Off the diagonal, at every dyadic level, the later half of a block meets its earlier half; the decay is split at the
    first row of the later half, so both exponents are ≤ 0 and the product is a matmul. On the small diagonal blocks
    each decay is formed from its own difference.
    """
    heads, rows, _, width = qk.shape
    out = qk.new_zeros(heads, rows, 2, rows)
    half = rows // 2
    while half >= DIAGONAL:
        n = rows // (2 * half)
        early, late = G.view(heads, n, 2, half, width).unbind(2)
        x = qk.view(heads, n, 2, half, 2, width)
        anchor = late[:, :, :1]
        left = x[:, :, 1] * (late - anchor).exp_().unsqueeze(3)
        right = x[:, :, 0, :, 1] * (anchor - early).exp_()
        scores = left.view(heads, n, 2 * half, width) @ right.transpose(2, 3)
        target = out.view(heads, n, 2, half, 2, n, 2, half)[:, :, 1, :, :, :, 0].diagonal(dim1=1, dim2=4)
        target.copy_(scores.view(heads, n, half, 2, half).permute(0, 2, 3, 4, 1))
        half //= 2
    n, side = rows // DIAGONAL, DIAGONAL
    G, x = G.view(heads, n, side, width), qk.view(heads, n, side, 2, width)
    decay = (G.unsqueeze(3) - G.unsqueeze(2)).clamp_(max=0).exp_()  # i > r is clamped here and cut by tril later
    scores = x @ decay.mul_(x[:, :, None, :, 1]).transpose(3, 4)
    target = out.view(heads, n, side, 2, n, side).diagonal(dim1=1, dim2=4)
    target.copy_(scores.permute(0, 2, 3, 4, 1))
    return out


def _kda_chunk_fla(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """flash-linear-attention's Triton kernel: operands bf16, gate and state fp32, the gate unbounded."""
    from fla.ops.kda import chunk_kda

    q, k, v = (x.to(torch.bfloat16).unsqueeze(0).contiguous() for x in (q, k, v))
    o, final = chunk_kda(
        q=q, k=k, v=v, g=g.unsqueeze(0).contiguous(), beta=beta.unsqueeze(0).contiguous(), scale=1.0,
        initial_state=state.unsqueeze(0).contiguous(), output_final_state=True,
    )  # fmt: skip
    return o[0].float(), final[0]
