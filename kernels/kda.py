"""Kimi Delta Attention: the gate, the recurrence that defines it, and its chunkwise form (model-spec §2.2, §4).

Shapes: q, k, g [T,H,K]; v [T,H,V]; beta [T,H]; state [H,K,V] fp32. q and k come L2-normalised, q already carries
K^-1/2. g is a natural logarithm, ≤ 0 and unbounded below: a single token may decay a channel by e^-200. Therefore no
exponent here is ever positive: a product of decays is split only at an anchor that lies between its two rows. And none
is a difference of two large sums: each is the sum of the gates between two rows, taken by a matmul with zeros and ones.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.pointwise import sigmoid, softplus

CHUNK = 64  # rows of the grid; it starts at row 0 of every call
DIAGONAL = 4  # side of the diagonal blocks whose decays are formed one by one
LEAST = -60.0  # e^-60 is nothing beside 1; what is much less makes subnormal products, a hundred times as slow


def kda_gate(a: Tensor, A_log: Tensor, dt_bias: Tensor, lower_bound: float | None = None) -> Tensor:
    """Log decay ``-exp(A_log[h]) · softplus(a + dt_bias)``, fp32. a [T,H·K], A_log [H], dt_bias [H·K] -> [T,H,K].

    With a lower bound, < 0: ``lower_bound · σ(exp(A_log[h]) · (a + dt_bias))``, the newer models' (model-spec §7.1).
    """
    z = (a.to(dt_bias.dtype) + dt_bias).view(a.shape[0], A_log.numel(), -1)
    rate = torch.exp(A_log.view(-1, 1))
    return softplus(z) * -rate if lower_bound is None else sigmoid(z * rate) * lower_bound


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
    tokens = q.shape[0]
    pad = -tokens % CHUNK
    qk = F.pad(torch.stack([q, k], 2), (0, 0, 0, 0, 0, 0, 0, pad)).transpose(0, 1).contiguous()
    v, g = (F.pad(x, (0, 0, 0, 0, 0, pad)) for x in (v, g))
    v, beta = v.transpose(0, 1), F.pad(beta, (0, 0, 0, pad)).T.unsqueeze(-1)
    out = []
    for start in range(0, tokens, CHUNK):
        rows = slice(start, start + CHUNK)
        o, state = _chunk(qk[:, rows], v[:, rows], g[rows], beta[:, rows], state)
        out.append(o)
    return torch.cat(out, 1).transpose(0, 1)[:tokens], state


def _chunk(qk: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One chunk. qk [H,C,2,K]; v [H,C,V]; g [C,H,K]; beta [H,C,1]; state [H,K,V]. Rows of zeros leave the state alone.

    With G the running sum of g, P and M the decayed products of q and of k with k, and L = β ⊙ M below the diagonal:
    (I + L) N = β (V − (e^G K) S₀);  O = (e^G Q) S₀ + P N;  S = e^{G_C} S₀ + (e^{G_C − G} K)ᵀ N   (model-spec §4.1).
    """
    heads, rows, _, width = qk.shape
    windows, pairs = _windows(rows, g.dtype, g.device)
    decays = _decay(windows @ g.reshape(rows, -1)).view(-1, rows, heads, width).transpose(1, 2)
    since_start, until_end = decays[:2]
    read = (qk * since_start.unsqueeze(2)).view(heads, 2 * rows, width) @ state
    q_read, k_read = read.view(heads, rows, 2, -1).unbind(2)
    P, M = _decayed_products(qk, g, decays[2:], pairs).unbind(2)
    N = torch.linalg.solve_triangular(beta * M.tril(-1), beta * (v - k_read), upper=False, unitriangular=True)
    o = torch.baddbmm(q_read, P.tril(), N)
    kept = state * since_start[:, -1].unsqueeze(-1)
    return o, torch.baddbmm(kept, (qk[:, :, 1] * until_end).transpose(1, 2), N)


def _decayed_products(qk: Tensor, g: Tensor, decays: Tensor, pairs: Tensor) -> Tensor:
    """``Σ_c x_rc k_ic e^{G_rc − G_ic}`` for x = q and x = k -> [H,C,2,C], right for i ≤ r. decays [levels,H,C,K].

    Off the diagonal, at every dyadic level, the later half of a block meets its earlier half; the decay is split at the
    first row of the later half, and the product is a matmul. On the small diagonal blocks each decay stands alone.
    """
    heads, rows, _, width = qk.shape
    out = qk.new_zeros(heads, rows, 2, rows)
    for level, half in enumerate(_halves(rows)):
        n = rows // (2 * half)
        early, late = decays[level].view(heads, n, 2, half, width).unbind(2)
        x = qk.view(heads, n, 2, half, 2, width)
        left = (x[:, :, 1] * late.unsqueeze(3)).view(heads, n, 2 * half, width)
        scores = left @ (x[:, :, 0, :, 1] * early).transpose(2, 3)
        target = out.view(heads, n, 2, half, 2, n, 2, half)[:, :, 1, :, :, :, 0].diagonal(dim1=1, dim2=4)
        target.copy_(scores.view(heads, n, half, 2, half).permute(0, 2, 3, 4, 1))
    n, side = rows // DIAGONAL, DIAGONAL
    decay = _decay(pairs @ g.view(n, side, -1)).view(n, side, side, heads, width).permute(3, 0, 1, 2, 4)
    x = qk.view(heads, n, side, 2, width)
    scores = x @ (decay * x[:, :, None, :, 1]).transpose(3, 4)
    target = out.view(heads, n, side, 2, n, side).diagonal(dim1=1, dim2=4)
    target.copy_(scores.permute(0, 2, 3, 4, 1))
    return out


def _decay(exponents: Tensor) -> Tensor:
    return exponents.clamp_(min=LEAST).exp_()


def _halves(rows: int) -> list[int]:
    """Half the block size at every level: 32, 16, 8, 4 for 64 rows."""
    halves = []
    while rows > DIAGONAL:
        rows //= 2
        halves.append(rows)
    return halves


@cache
def _windows(rows: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which gates each exponent sums, as zeros and ones: ([(2 + levels)·rows, rows], [DIAGONAL², DIAGONAL]).

    Row r of the first: gates up to r; of the second: gates after r; of a level: the gates between r and the anchor of
    r's block. Row r·DIAGONAL + i of the pairs: the gates after i, up to r.
    """
    with torch.inference_mode(False):
        r, j = torch.arange(rows)[:, None], torch.arange(rows)[None]
        windows = [j <= r, j > r]
        for half in _halves(rows):
            anchor = r // (2 * half) * (2 * half) + half
            windows.append((j > torch.minimum(r, anchor)) & (j <= torch.maximum(r, anchor)))
        d = torch.arange(DIAGONAL)
        pairs = (d > d[:, None]) & (d <= d[:, None, None])
        return torch.cat(windows).to(device, dtype), pairs.flatten(0, 1).to(device, dtype)
