"""Kimi Delta Attention for training, backward (model-spec §4.5), from the tiles that the forward left.

Three launches. The scan goes through the chunks from the last to the first with the gradient dS of the state in
registers, and leaves dN and dS of each chunk. Then a launch over the value channels: with Y = Rᵀ dN,

    dP = tril(dO Nᵀ);  dV = β ⊙ Y;  dM = -β ⊙ stricttril(Y Nᵀ);  d logit of β = (1 − β) ⊙ rowsum(Y ⊙ N)

where the last two are what §4.5's lines 5 and 6 come to, since N = R β (V − (e^G ⊙ K) S₀). Then one over the key
channels, which given dP and dM do not touch each other: the norms' backward needs ⟨q, dq⟩ and ⟨k, dk⟩ of whole rows,
but o is linear in q, and k counts once as a key that is read (⟨N, Y⟩ − β⟨V, Y⟩) and once as one that is written
(⟨N, Y⟩), so both come from the value channels too.

The gradient of the gate is a sum over all pairs of rows around it, taken as a difference of running sums. The two sides
of a pair are therefore the same rounded numbers, in fp32: what cancels, cancels.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.gate import LOG2E, softplus2
from kernels.gpu.kda_forward import (
    LEVELS,
    ROWS,
    Factors,
    chunk_rows,
    columns,
    decays,
    exact_sums,
    paired,
    stages,
    tile,
)
from kernels.gpu.packing import CHUNK, Packing

# One configuration of each launch. part: value channels of a program of the scan, taken at a time by the others.
SCAN: dict[str, Any] = {"part": 64, "num_warps": 4, "num_stages": 3}
VALUES: dict[str, Any] = {"part": 64, "num_warps": 4, "num_stages": 3}
KEYS: dict[str, Any] = {  # width: key channels of a program; 128 registers leave room for two programs on an SM
    "width": 64, "part": 64, "num_warps": 8, "num_stages": 3, "maxnreg": 128,
}  # fmt: skip
SHUT = tl.constexpr(43.0)  # bits: a token that leaves less than 2^-43; of its dg there is only rounding to be had
PRECISION = tl.constexpr("tf32x3")  # of fp32 operands: plain TF32 rounds a pair's two sides differently


@triton.jit
def _scan(do, d_final, read, write, G, P, W, dN, d_states, d_state, starts, first_chunk, do_stride, H,
          K: tl.constexpr, V: tl.constexpr, PART: tl.constexpr, FINAL: tl.constexpr):  # fmt: skip
    part, h, n = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    i, j, c = tl.arange(0, ROWS), tl.arange(0, K), part * PART + tl.arange(0, PART)
    dtype = read.dtype.element_ty
    begin, end = tl.load(starts + n), tl.load(starts + n + 1)
    first, chunks = tl.load(first_chunk + n), tl.load(first_chunk + n + 1) - tl.load(first_chunk + n)
    at = tile(n, h, H, K * V) + j[:, None] * V + c[None]
    dS = tl.load(d_final + at).to(tl.float32) if FINAL else tl.zeros([K, PART], tl.float32)
    decay = tl.load(G + tile(first + chunks - 1, h, H, ROWS * K) + (ROWS - 1) * K + j)
    for back in range(chunks):
        chunk = first + chunks - 1 - back
        before = tl.maximum(chunk - 1, first)
        before = tl.load(G + tile(before, h, H, ROWS * K) + (ROWS - 1) * K + j)  # in time: no dot waits for it
        keys = tile(chunk, h, H, ROWS * K) + i[:, None] * K + j[None]
        row = begin + (chunks - 1 - back) * ROWS + i
        y = row.to(tl.int64)[:, None] * do_stride + h * V + c[None]
        y = tl.load(do + y, mask=(row < end)[:, None], other=0.0).to(dtype)
        after = dS.to(dtype)
        tl.store(d_states + tile(chunk, h, H, K * V) + j[:, None] * V + c[None], after)
        x = tl.dot(tl.trans(tl.load(P + tile(chunk, h, H, ROWS * ROWS) + i[:, None] * ROWS + i[None])), y)
        x = tl.dot(tl.load(write + keys), after, x)
        tl.store(dN + tile(chunk, h, H, ROWS * V) + i[:, None] * V + c[None], x.to(dtype))
        dS = tl.dot(tl.trans(tl.load(read + keys)), y, dS * tl.exp2(decay)[:, None])
        dS = tl.dot(tl.trans(tl.load(W + keys)), (-x).to(dtype), dS)
        decay = before
    tl.store(d_state + at, dS)


@triton.jit
def _values(do, o, v, b, R, N, dN, dv, db, dP, dM, along, starts, first_chunk, sequence_of,
            do_stride, v_stride, b_stride, H, CHUNKS,
            K: tl.constexpr, V: tl.constexpr, PART: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    """``along``: ⟨q, dq⟩ and ⟨k, dk⟩ of every row."""
    h, chunk = tl.program_id(0), tl.program_id(1)
    row, real = chunk_rows(chunk, starts, first_chunk, sequence_of)
    i = tl.arange(0, ROWS)
    dtype = N.dtype.element_ty
    square = tile(chunk, h, H, ROWS * ROWS) + i[:, None] * ROWS + i[None]
    beta = tl.where(real, tl.sigmoid(tl.load(b + row * b_stride + h, mask=real, other=0.0).to(tl.float32)), 0.0)
    inverse = tl.trans(tl.load(R + square))
    scores = tl.zeros([ROWS, ROWS], tl.float32)
    errors = tl.zeros([ROWS, ROWS], tl.float32)
    q_dq = tl.zeros([ROWS], tl.float32)
    y_n = tl.zeros([ROWS], tl.float32)
    y_v = tl.zeros([ROWS], tl.float32)
    for start in tl.range(0, V, PART, num_stages=STAGES):
        c = start + tl.arange(0, PART)
        values = tile(chunk, h, H, ROWS * V) + i[:, None] * V + c[None]
        packed = (row * H + h)[:, None] * V + c[None]
        x = tl.load(do + (row * do_stride + h * V)[:, None] + c[None], mask=real[:, None], other=0.0)
        n, y = tl.load(N + values), tl.load(dN + values)
        z = tl.load(o + packed, mask=real[:, None], other=0.0)
        w = tl.load(v + (row * v_stride + h * V)[:, None] + c[None], mask=real[:, None], other=0.0)
        q_dq += tl.sum(x.to(tl.float32) * z.to(tl.float32), 1)
        scores = tl.dot(x.to(dtype), tl.trans(n), scores)
        y = tl.dot(inverse, y)
        errors = tl.dot(y.to(dtype), tl.trans(n), errors)
        y_n += tl.sum(y * n.to(tl.float32), 1)
        y_v += tl.sum(y * w.to(tl.float32), 1)
        tl.store(dv + packed, (beta[:, None] * y).to(dv.dtype.element_ty), mask=real[:, None])
    tl.store(dP + square, tl.where(i[:, None] >= i[None], scores, 0.0).to(dtype))
    tl.store(dM + square, tl.where(i[:, None] > i[None], -beta[:, None] * errors, 0.0).to(dtype))
    tl.store(db + row * H + h, ((1.0 - beta) * y_n).to(db.dtype.element_ty), mask=real)
    tl.store(along + tile(chunk, h, H, ROWS) + i, q_dq)
    tl.store(along + tile(CHUNKS + chunk, h, H, ROWS) + i, 2.0 * y_n - beta * y_v)


@triton.jit
def _pairs(dP, dM, q_unit, k_unit, G, reach, at, c, dq, dk, dG, K: tl.constexpr):
    """Adds what the pairs of different rows of a chunk give (§4.5, line 7) to dq, dk and dG [64,channels].

    Everything is loaded twice in a round: there are not the registers to keep it.
    """
    dtype = dP.dtype.element_ty
    square = tl.arange(0, ROWS)[:, None] * ROWS + tl.arange(0, ROWS)[None]
    for level in range(tl.maximum(reach, 1) - 1, LEVELS):
        tl.debug_barrier()  # or the loads move out of the loop
        by_q, by_k = tl.load(dP + square), tl.load(dM + square)
        late, early = decays(G, at, c, level, reach, K)
        k_early = (tl.load(k_unit + at) * early).to(dtype)
        k_late = (tl.load(k_unit + at) * late).to(dtype)
        q_late = (tl.load(q_unit + at) * late).to(dtype)
        by_q = tl.where(paired(level, reach), by_q, 0.0)
        of_q = tl.dot(by_q, k_early, input_precision=PRECISION)
        to_q = tl.dot(tl.trans(by_q), q_late, input_precision=PRECISION)
        by_k = tl.where(paired(level, reach), by_k, 0.0)
        of_k = tl.dot(by_k, k_early, input_precision=PRECISION)
        to_k = tl.dot(tl.trans(by_k), k_late, input_precision=PRECISION)
        tl.debug_barrier()
        late, early = decays(G, at, c, level, reach, K, 0.0 * of_q)
        k = tl.load(k_unit + at)
        dq += late * of_q
        dG += (tl.load(q_unit + at) * late).to(dtype).to(tl.float32) * of_q
        to_later = tl.fma(to_q, 1.0, to_k)
        dk += late * of_k + early * to_later
        dG += (k * late).to(dtype).to(tl.float32) * of_k - (k * early).to(dtype).to(tl.float32) * to_later
    return dq, dk, dG


@triton.jit
def _state(do, dv, N, states, d_states, do_rows, dv_rows, real, n_tile, state_tile, c,
           V: tl.constexpr, PART: tl.constexpr, WIDTH: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    """dO S₀ᵀ, dV S₀ᵀ, N dSᵀ [64,channels] and the rows' sums of S₀ ⊙ dS [channels]."""
    i = tl.arange(0, ROWS)
    dtype = N.dtype.element_ty
    read = tl.zeros([ROWS, WIDTH], tl.float32)
    missed = tl.zeros([ROWS, WIDTH], tl.float32)
    written = tl.zeros([ROWS, WIDTH], tl.float32)
    kept = tl.zeros([WIDTH], tl.float32)
    for start in tl.range(0, V, PART, num_stages=STAGES):
        e = start + tl.arange(0, PART)
        S = tl.load(states + state_tile + c[:, None] * V + e[None])
        dS = tl.load(d_states + state_tile + c[:, None] * V + e[None])
        x = tl.load(do + do_rows[:, None] + e[None], mask=real[:, None], other=0.0).to(dtype)
        y = tl.load(dv + dv_rows[:, None] + e[None], mask=real[:, None], other=0.0).to(dtype)
        n = tl.load(N + n_tile + i[:, None] * V + e[None])
        read = tl.dot(x, tl.trans(S), read)
        missed = tl.dot(y, tl.trans(S), missed)
        written = tl.dot(n, tl.trans(dS), written)
        kept += tl.sum(S.to(tl.float32) * dS.to(tl.float32), 1)
    return read, missed, written, kept


@triton.jit
def _gate(dg, z, rate, LOWER: tl.constexpr):
    """From the gradient of the gate, a natural logarithm: (that of z, of A_log by token and channel)."""
    if LOWER is None:
        bits = softplus2(z)
        dg = tl.where(rate * bits < SHUT, -rate * dg, 0.0)
        return dg * tl.exp2(z * LOG2E - bits), dg * (bits / LOG2E)
    else:
        opened = tl.sigmoid(rate * z)
        dz = (LOWER * rate) * dg * opened * (1.0 - opened)
        return dz, dz * z


@triton.jit
def _keys(do, dv, N, states, d_states, dP, dM, q_unit, k_unit, G, reach, lengths, along, a, A_log, dt_bias,
          dq, dk, da, d_rate, d_bias, starts, first_chunk, sequence_of, do_stride, a_stride, H, CHUNKS,
          SCALE: tl.constexpr, K: tl.constexpr, V: tl.constexpr, WIDTH: tl.constexpr,
          PART: tl.constexpr, STAGES: tl.constexpr, LOWER: tl.constexpr):  # fmt: skip
    """``d_rate`` [K/WIDTH,chunks,H], ``d_bias`` [chunks,H,K]: sums over a chunk's rows, for A_log and dt_bias."""
    part, h, chunk = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row, real = chunk_rows(chunk, starts, first_chunk, sequence_of)
    i, c = tl.arange(0, ROWS), part * WIDTH + tl.arange(0, WIDTH)
    keys, square = tile(chunk, h, H, ROWS * K), tile(chunk, h, H, ROWS * ROWS)
    q, k, G, dP, dM = q_unit + keys, k_unit + keys, G + keys, dP + square, dM + square
    at = i[:, None] * K + c[None]
    g, key, query = tl.load(G + at), tl.load(k + at), tl.load(q + at)  # on their way while the states are multiplied
    last, own = tl.load(G + (ROWS - 1) * K + c), tl.load(dP + i * (ROWS + 1)).to(tl.float32)
    blocks = tl.load(reach + chunk * H + h)
    read, missed, written, kept = _state(
        do, dv, N, states, d_states, row * do_stride + h * V, (row * H + h) * V, real,
        tile(chunk, h, H, ROWS * V), tile(chunk, h, H, K * V), c, V, PART, WIDTH, STAGES,
    )  # fmt: skip
    read *= tl.exp2(g)
    missed *= tl.exp2(g)
    written *= tl.exp2(last[None] - g)
    until_end = key * written
    across = kept * tl.exp2(last) + tl.sum(until_end, 0)
    dG = query * read - key * missed - until_end
    x, y = read + own[:, None] * key, written - missed + own[:, None] * query
    q_rows, k_rows = tile(chunk, h, H, ROWS) + i, tile(CHUNKS + chunk, h, H, ROWS) + i
    along_q, along_k = tl.load(along + q_rows) / (SCALE * SCALE), tl.load(along + k_rows)
    q_rate, k_rate = tl.load(lengths + q_rows) * SCALE, tl.load(lengths + k_rows)
    x, y, dG = _pairs(dP, dM, q, k, G, blocks, at, c, x, y, dG, K)
    z = tl.load(a + (row * a_stride + h * K)[:, None] + c[None], mask=real[:, None], other=0.0).to(tl.float32)
    z += tl.load(dt_bias + h * K + c)[None] + 0.0 * across[None]  # zeros: see ``decays``
    key, query = tl.load(k + at), tl.load(q + at)
    to = (row * H + h)[:, None] * K + c[None]
    x = q_rate[:, None] * (x - along_q[:, None] * query)
    tl.store(dq + to, x.to(dq.dtype.element_ty), mask=real[:, None])
    y = k_rate[:, None] * (y - along_k[:, None] * key)
    tl.store(dk + to, y.to(dk.dtype.element_ty), mask=real[:, None])
    dg = exact_sums(tl.where(i[:, None] <= i[None], 1.0, 0.0).to(tl.bfloat16), dG) + across[None]
    dg, d_log = _gate(tl.where(real[:, None], dg, 0.0), z, tl.exp(tl.load(A_log + h)), LOWER)
    tl.store(d_rate + (part * CHUNKS + chunk) * H + h, tl.sum(tl.sum(d_log, 0), 0))
    tl.store(da + to, dg.to(da.dtype.element_ty), mask=real[:, None])
    tl.store(d_bias + tile(chunk, h, H, K) + c, tl.sum(dg, 0))


def backward(
    do: Tensor, d_final: Tensor | None, o: Tensor, v: Tensor, a: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor,
    packing: Packing, f: Factors, lower_bound: float | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of (q, k, v, a, b, A_log, dt_bias, state) for those of o [T,H,V] and of the final state [N,H,K,V]."""
    (_, H, V), K, chunks = v.shape, f.k.shape[-1], packing.chunks
    tables = (packing.starts, packing.first_chunk, packing.sequence_of)
    dN, d_states = torch.empty_like(f.N), torch.empty_like(f.states)
    d_state = torch.empty((packing.sequences, H, K, V), dtype=torch.float32, device=v.device)
    part = columns(f.W, SCAN["part"], packing.sequences * H, V)
    _scan[(V // part, H, packing.sequences)](
        do, d_state if d_final is None else d_final, f.read, f.write, f.G, f.P, f.W, dN, d_states, d_state,
        *tables[:2], do.stride(0), H, K=K, V=V, PART=part, FINAL=d_final is not None,
        num_warps=SCAN["num_warps"], num_stages=stages(f.W, 3 * K + CHUNK + part, SCAN["num_stages"]),
    )  # fmt: skip
    dv, db = torch.empty_like(o, dtype=v.dtype), torch.empty(o.shape[:2], dtype=b.dtype, device=o.device)
    dP, dM, along = torch.empty_like(f.P), torch.empty_like(f.P), torch.empty_like(f.lengths)
    part = min(V, VALUES["part"])
    _values[(H, chunks)](
        do, o, v, b, f.R, f.N, dN, dv, db, dP, dM, along, *tables, do.stride(0), v.stride(0), b.stride(0), H, chunks,
        K=K, V=V, PART=part, STAGES=stages(f.N, 5 * part, VALUES["num_stages"]),
        num_warps=VALUES["num_warps"], num_stages=1,
    )  # fmt: skip
    del dN
    dq, dk, da = (torch.empty(a.shape, dtype=kind, device=o.device) for kind in (o.dtype, o.dtype, a.dtype))
    width, part = min(K, KEYS["width"]), min(V, KEYS["part"])
    d_rate = torch.empty((K // width * chunks, H), dtype=torch.float32, device=o.device)
    d_bias = torch.empty((chunks, H * K), dtype=torch.float32, device=o.device)
    _keys[(K // width, H, chunks)](
        do, dv, f.N, f.states, d_states, dP, dM, f.q, f.k, f.G, f.reach, f.lengths, along, a, A_log, dt_bias,
        dq, dk, da, d_rate, d_bias, *tables, do.stride(0), a.stride(0), H, chunks,
        SCALE=K**-0.5, K=K, V=V, WIDTH=width, PART=part, STAGES=stages(f.N, 5 * part, KEYS["num_stages"]),
        LOWER=lower_bound, num_warps=KEYS["num_warps"], maxnreg=KEYS["maxnreg"], num_stages=1,
    )  # fmt: skip
    return dq, dk, dv, da, db, d_rate.sum(0), d_bias.sum(0), d_state
