"""KDA over many new rows at once, two launches: what a chunk contributes, then the pass of the state along the chunks.

For a chunk of 64 rows with the running sum G of the gates, S the state before it (model-spec §4.1; kernels/kda.py):

    (I + L) N = β (V − (e^G K̂) S);  O = (e^G Q̂) S + P N;  S ← e^{G_C} S + (e^{G_C − G} K̂)ᵀ N

`_factors` makes all of a chunk and head that does not need S: U and W with N = U − W S, P, and the decayed rows.
`_scan` keeps S in registers along a sequence. The norm is one number a row, so it is never applied to the wide rows:
with ρ = 1/‖k‖ the scan works on ρN, which takes the raw k everywhere else; ρ goes into the small inverse, 1/‖q‖ into O.

Exponents are base 2. The gate is unbounded, so decays are split only where both parts are known to be in range: between
the two halves of a chunk at their border (both parts ≤ 1), within a half at its middle if 16 tokens keep every channel
above 2^-RANGE, else at every dyadic level (all parts ≤ 1) with sums taken within the level's own blocks.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.packing import CHUNK, Packing

Launch = Callable[[], Any]
EPS = 1e-6  # inside the root of the L2 norm
RANGE = tl.constexpr(100.0)  # log2 units; 2^±100 leaves bf16 room for raw keys up to 2^27
SLICE = 1024  # chunks whose factors are held at once: 2.4 GB at 32 heads

# One configuration a shape; bench/h200/kda_prefill_tune.py tries others by hand.
FACTORS: dict[str, Any] = {"slice_k": 64, "slice_v": 64, "num_warps": 4, "num_stages": 1, "maxnreg": None}
SCAN = {  # by how many programs of 32 columns there are
    "few": {"columns": 16, "num_warps": 4, "num_stages": 3},  # half of the device or less
    "some": {"columns": 32, "num_warps": 4, "num_stages": 3},
    "many": {"columns": 32, "num_warps": 4, "num_stages": 3},  # four times the device or more
}


@triton.jit
def _log2_decay(x, rate, bias, here):
    """``−e^A softplus(x + bias)`` in log2 units. x [n,K]; rate scalar; bias [K]; rows not ``here`` decay nothing."""
    y = (x.to(tl.float32) + bias[None, :]) * 1.4426950408889634
    t = tl.exp2(-tl.abs(y))
    p = 0.06378752545599763 - t * 0.012370624020021448  # log2(1 + t) / t on [0, 1], to 3e-7: tl.log2 takes 25 steps
    p = p * t - 0.15559986223189798
    p = p * t + 0.25617962368784614
    p = p * t - 0.35345465030849255
    p = p * t + 0.48007374224813193
    p = p * t - 0.7213107222027899
    p = p * t + 1.442694767073965
    return tl.where(here[:, None], -rate * (tl.maximum(y, 0.0) + t * p), 0.0)


@triton.jit
def _centred_products(q, k, G, M0, M1, P, L, DT: tl.constexpr, PRECISION: tl.constexpr):
    """Adds the decayed products of q and of k with k, right for i ≤ r; above the diagonal anything, even inf.

    q, k, G [64,K]; M0, M1 [K] are G in the middle of each half. Columns of the first half are reached by all rows, with
    the decay split at M0, those of the second by its own rows, split at M1.
    """
    second = tl.arange(0, 64)[:, None] >= 32
    right = k * tl.exp2(tl.where(second, M1[None, :], M0[None, :]) - G)
    left = tl.exp2(G - M0[None, :])
    near = tl.trans(tl.where(second, 0.0, right).to(DT))
    P = tl.dot((q * left).to(DT), near, P, input_precision=PRECISION)
    L = tl.dot((k * left).to(DT), near, L, input_precision=PRECISION)
    left = tl.exp2(G - M1[None, :])  # inf in the first half: selected away, not multiplied
    near = tl.trans(tl.where(second, right, 0.0).to(DT))
    P = tl.dot(tl.where(second, q * left, 0.0).to(DT), near, P, input_precision=PRECISION)
    L = tl.dot(tl.where(second, k * left, 0.0).to(DT), near, L, input_precision=PRECISION)
    return P, L


@triton.jit
def _level_products(
    q, k, g, P, L, SIDE: tl.constexpr, SLICE_K: tl.constexpr, DT: tl.constexpr, PRECISION: tl.constexpr
):
    """Of these products those of the later SIDE rows of each block of 2 SIDE with its earlier rows."""
    r = tl.arange(0, 64)
    blocks = tl.reshape(g, (64 // SIDE, SIDE, SLICE_K))
    since = tl.cumsum(blocks, 1)
    until = tl.cumsum(blocks, 1, reverse=True) - blocks
    later = (tl.arange(0, 64 // SIDE) % 2 == 1)[:, None, None]
    decay = tl.exp2(tl.reshape(tl.where(later, since, until), (64, SLICE_K)))
    kd = (k * decay).to(DT)
    meet = (r[:, None] // SIDE == r[None, :] // SIDE + 1) & ((r // SIDE) % 2 == 1)[:, None]
    P += tl.where(meet, tl.dot((q * decay).to(DT), tl.trans(kd), input_precision=PRECISION), 0.0)
    L += tl.where(meet, tl.dot(kd, tl.trans(kd), input_precision=PRECISION), 0.0)
    return P, L


@triton.jit
def _dyadic_products(q, k, g, P, L, SLICE_K: tl.constexpr, DT: tl.constexpr, PRECISION: tl.constexpr):
    """The same for any gates g [64,K]: two rows meet at the level where they lie in the two halves of one block."""
    r = tl.arange(0, 64)
    P += tl.where(r[:, None] == r[None, :], tl.sum(q * k, 1)[:, None], 0.0)
    for level in tl.static_range(6):
        P, L = _level_products(q, k, g, P, L, 1 << level, SLICE_K, DT, PRECISION)
    return P, L


@triton.jit
def _merged(X, L, SIDE: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr):
    """Inverses of the diagonal blocks of side 2 SIDE from those of side SIDE: [A 0; C B]⁻¹ = [A⁻¹ 0; −B⁻¹CA⁻¹ B⁻¹]."""
    r = tl.arange(0, 64)
    meet = (r[:, None] // SIDE == r[None, :] // SIDE + 1) & ((r // SIDE) % 2 == 1)[:, None]
    outer = X.to(INNER)
    step = tl.dot(outer, tl.where(meet, L, 0.0).to(INNER), input_precision=PRECISION)
    return X - tl.dot(step.to(INNER), outer, input_precision=PRECISION)


@triton.jit
def _inverse(L, INNER: tl.constexpr, PRECISION: tl.constexpr):
    """(I + L)⁻¹ of a strictly lower L [64,64], merged from blocks of 2 rows up.

    Every entry is a product of contractions, at most 1: fp16 operands lose little. (Powers of L would grow.)
    """
    r = tl.arange(0, 64)
    row, column = r[:, None], r[None, :]
    X = tl.where(row == column, 1.0, tl.where((row == column + 1) & (row % 2 == 1), -L, 0.0))
    for level in tl.static_range(1, 6):
        X = _merged(X, L, 1 << level, INNER, PRECISION)
    return X


@triton.jit
def _factors(
    q, k, v, a, b, A_log, dt_bias, starts, first_chunk, sequence_of,
    U, W, Qd, Kd, P, total, q_norm,
    from_chunk, q_scale, stride_q, stride_k, stride_v, stride_a, stride_b,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, SLICE_K: tl.constexpr, SLICE_V: tl.constexpr,
    DT: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """One chunk and head. U [c,H,64,V], W, Qd, Kd [c,H,64,K], P [c,H,64,64]; total [c,H,K], q_norm [c,H,64] fp32.

    Rows past the end of the sequence come out as zeros.
    """
    head, chunk = tl.program_id(0), from_chunk + tl.program_id(1)
    sequence = tl.load(sequence_of + chunk)
    begin = tl.load(starts + sequence) + (chunk - tl.load(first_chunk + sequence)) * 64
    place = (tl.program_id(1) * H + head).to(tl.int64)
    r = tl.arange(0, 64)
    here = begin + r < tl.load(starts + sequence + 1)
    row = (begin + r).to(tl.int64)
    rate = tl.exp2(tl.load(A_log + head) * 1.4426950408889634)
    products = tl.zeros((64, 64), tl.float32)
    L = tl.zeros((64, 64), tl.float32)
    qq, kk = tl.zeros((64,), tl.float32), tl.zeros((64,), tl.float32)

    for s in range(0, K, SLICE_K):
        c = s + tl.arange(0, SLICE_K)
        at = head * K + c
        g = tl.load(a + row[:, None] * stride_a + at, here[:, None], 0.0)
        g = _log2_decay(g, rate, tl.load(dt_bias + at), here)
        x = tl.load(q + row[:, None] * stride_q + at, here[:, None], 0.0).to(tl.float32)
        y = tl.load(k + row[:, None] * stride_k + at, here[:, None], 0.0).to(tl.float32)
        qq += tl.sum(x * x, 1)
        kk += tl.sum(y * y, 1)
        G, end = tl.cumsum(g, 0), tl.sum(g, 0)
        M0 = tl.sum(tl.where((r < 16)[:, None], g, 0.0), 0)
        M = tl.sum(tl.where((r < 32)[:, None], g, 0.0), 0)
        M1 = tl.sum(tl.where((r < 48)[:, None], g, 0.0), 0)
        steepest = tl.min(tl.minimum(tl.minimum(M0, M - M0), tl.minimum(M1 - M, end - M1)), 0)
        if steepest > -RANGE:
            products, L = _centred_products(x, y, G, M0, M1, products, L, DT, PRECISION)
            until = end[None, :] - G
        else:
            products, L = _dyadic_products(x, y, g, products, L, SLICE_K, DT, PRECISION)
            until = tl.cumsum(g, 0, reverse=True) - g  # the difference above would be one of large sums
        decay = tl.exp2(G)
        target = place * (64 * K) + r[:, None] * K + c
        tl.store(Qd + target, (x * decay).to(DT))
        tl.store(W + target, (y * decay).to(DT))
        tl.store(Kd + target, (y * tl.exp2(until)).to(DT))
        tl.store(total + place * K + c, tl.exp2(end))

    tl.store(q_norm + place * 64 + r, tl.rsqrt(qq + EPS) * q_scale)
    tl.store(
        P + place * (64 * 64) + r[:, None] * 64 + r,
        tl.where(r[:, None] >= r[None, :], products, 0.0).to(DT),
    )
    rho = tl.rsqrt(kk + EPS)
    beta = tl.sigmoid(tl.load(b + row * stride_b + head, here, 0.0).to(tl.float32))
    L = tl.where(r[:, None] > r[None, :], L * (beta * rho)[:, None] * rho[None, :], 0.0)
    X = _inverse(L, INNER, PRECISION) * rho[:, None] * beta[None, :]

    X_u = X.to(DT)
    for s in range(0, V, SLICE_V):
        c = s + tl.arange(0, SLICE_V)
        x = tl.load(v + row[:, None] * stride_v + head * V + c, here[:, None], 0.0).to(DT)
        u_at = U + place * (64 * V) + r[:, None] * V + c
        tl.store(u_at, tl.dot(X_u, x, input_precision=PRECISION).to(DT))
    X_w = (X * rho[None, :]).to(DT)
    tl.debug_barrier()  # e^G k lies where W will: other threads of this program wrote it
    for s in range(0, K, SLICE_K):
        w_at = W + place * (64 * K) + r[:, None] * K + s + tl.arange(0, SLICE_K)
        x = tl.load(w_at)
        w = tl.dot(X_w, x, input_precision=PRECISION).to(DT)
        tl.debug_barrier()
        tl.store(w_at, w)


@triton.jit
def _scan(
    U, W, Qd, Kd, P, total, q_norm, o, pool, slots, starts, first_chunk, snapshot_of, snapshots,
    from_chunk, to_chunk, stride_slot,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BV: tl.constexpr, STAGES: tl.constexpr,
    SNAPSHOTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """BV columns of the state of one sequence and head, along those of its chunks that lie in from_chunk..to_chunk."""
    unit, tile = tl.program_id(0) // (V // BV), tl.program_id(0) % (V // BV)  # tiles of a head at once: it is read once
    sequence, head = unit // H, unit % H
    own = tl.load(first_chunk + sequence)
    first = tl.maximum(own, from_chunk)
    last = tl.minimum(tl.load(first_chunk + sequence + 1), to_chunk)
    if first >= last:
        return
    begin, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    r, wide, columns = tl.arange(0, 64), tl.arange(0, K), tile * BV + tl.arange(0, BV)
    state_at = head * (K * V) + wide[:, None] * V + columns
    held = pool + tl.load(slots + sequence).to(tl.int64) * stride_slot + state_at
    S = tl.load(held)

    for chunk in tl.range(first, last, num_stages=STAGES):
        place = (chunk - from_chunk).to(tl.int64) * H + head
        rows = place * (64 * K) + r[:, None] * K + wide
        w, qd, kd = tl.load(W + rows), tl.load(Qd + rows), tl.load(Kd + rows)
        p = tl.load(P + place * (64 * 64) + r[:, None] * 64 + r)
        u = tl.load(U + place * (64 * V) + r[:, None] * V + columns)
        kept = tl.load(total + place * K + wide)
        norm = tl.load(q_norm + place * 64 + r)
        s = S.to(w.dtype)
        n = (u.to(tl.float32) - tl.dot(w, s, input_precision=PRECISION)).to(w.dtype)
        out = tl.dot(p, n, tl.dot(qd, s, input_precision=PRECISION), input_precision=PRECISION)
        S = tl.dot(tl.trans(kd), n, S * kept[:, None], input_precision=PRECISION)
        row = begin + (chunk - own) * 64 + r
        target = o + row.to(tl.int64)[:, None] * (H * V) + head * V + columns
        tl.store(target, (out * norm[:, None]).to(o.dtype.element_ty), (row < end)[:, None])
        if SNAPSHOTS:
            number = tl.load(snapshot_of + chunk)
            if number >= 0:
                tl.store(snapshots + number.to(tl.int64) * (H * K * V) + state_at, S)
    tl.store(held, S)


def kda_prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    A_log: Tensor,
    dt_bias: Tensor,
    packing: Packing,
    pool: Tensor,
    slots: Tensor,
    snapshots: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """o [T,H,V] in q's dtype; the sequences' states in ``pool`` are replaced by their last ones.

    q, k, a [T,H,K], v [T,H,V], b [T,H]: rows may be strided. q and k come from the convolution, not normalised; a and b
    are the logits of gate and write strength: g = −exp(A_log[h]) softplus(a + dt_bias), β = σ(b) (model-spec §2.2).
    A_log [H], dt_bias [H·K] fp32; pool [slots,H,K,V] fp32; slots [N] int32, distinct: sequence n goes on from
    pool[slots[n]]. snapshots: (chunks [S] int32, out [S,H,K,V] fp32): the state after each of these chunks, numbered as
    the packing numbers them. K and V are powers of two from 16 up, K from 64 up in bf16 on a GPU.
    A sequence that is cut at a multiple of 64 rows and goes on later has the same bits; so has one packed with others.
    """
    o = torch.empty(v.shape, dtype=q.dtype, device=q.device)
    for factors, scan in launches(q, k, v, a, b, A_log, dt_bias, packing, pool, slots, snapshots, o):
        factors()
        scan()
    return o


def launches(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor, packing: Packing,
    pool: Tensor, slots: Tensor, snapshots: tuple[Tensor, Tensor] | None, o: Tensor,
) -> Iterator[tuple[Launch, Launch]]:  # fmt: skip
    """The two launches of each slice of SLICE chunks, in order; they share one scratch."""
    H, K, V = *q.shape[1:], v.shape[2]
    if q.is_cuda and K < 64 and q.dtype != torch.float32:
        raise ValueError(f"K = {K} in {q.dtype} comes out wrong on a GPU with Triton 3.6, not from 64 up")
    q, k, v, a = (_rows(x) for x in (q, k, v, a))
    dtype, precision = (torch.float32, "tf32x3") if q.dtype == torch.float32 else (torch.bfloat16, "tf32")
    table = _snapshot_table(packing, snapshots)
    scan = SCAN[_fill(packing.sequences * H * V // 32, q)]
    columns, stages = min(V, scan["columns"]), _stages(scan["num_stages"], dtype, q)
    scratch = _scratch(min(packing.chunks, SLICE), H, K, V, dtype, q.device)
    slice_k, slice_v = min(K, FACTORS["slice_k"]), min(V, FACTORS["slice_v"])
    for start in range(0, packing.chunks, SLICE):
        stop = min(start + SLICE, packing.chunks)
        yield (
            partial(
                _factors[(H, stop - start)],
                q, k, v, a, b, A_log, dt_bias, packing.starts, packing.first_chunk, packing.sequence_of, *scratch,
                start, K**-0.5, q.stride(0), k.stride(0), v.stride(0), a.stride(0), b.stride(0),
                H, K, V, slice_k, slice_v, *_types(dtype), precision, EPS,
                num_warps=FACTORS["num_warps"], num_stages=FACTORS["num_stages"], maxnreg=_registers(dtype, q),
            ),
            partial(
                _scan[(packing.sequences * H * (V // columns),)],
                *scratch, o, pool, slots, packing.starts, packing.first_chunk, *table,
                start, stop, pool.stride(0), H, K, V, columns, stages, snapshots is not None, precision,
                num_warps=scan["num_warps"],
            ),
        )  # fmt: skip


def _scratch(chunks: int, H: int, K: int, V: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """U, W, Qd, Kd, P, total, q_norm of `_factors`."""
    wide = [torch.empty(chunks, H, CHUNK, n, dtype=dtype, device=device) for n in (V, K, K, K, CHUNK)]
    return wide + [torch.empty(chunks, H, n, dtype=torch.float32, device=device) for n in (K, CHUNK)]


def _types(dtype: torch.dtype) -> tuple[tl.dtype, tl.dtype]:
    """Of the products' operands, of those within the inverse: its entries are at most 1, where fp16 is the finer."""
    return (tl.float32, tl.float32) if dtype == torch.float32 else (tl.bfloat16, tl.float16)


def _rows(x: Tensor) -> Tensor:
    """Heads and channels of a row must lie side by side."""
    whole = x.stride(2) == 1 and x.stride(1) == x.shape[2]
    return x if whole else x.contiguous()


def _snapshot_table(packing: Packing, snapshots: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """(which snapshot a chunk is, or -1 [chunks] int32; where they go)."""
    if snapshots is None:
        return packing.sequence_of, packing.sequence_of  # not read
    chunks, out = snapshots
    table = torch.full_like(packing.sequence_of, -1)
    numbers = torch.arange(chunks.numel(), dtype=torch.int32, device=table.device)
    return table.scatter_(0, chunks.long(), numbers), out


def _fill(programs: int, like: Tensor) -> str:
    """Which scan: where most of the device would be idle its programs are halved. A column's bits stay the same."""
    units = torch.cuda.get_device_properties(like.device).multi_processor_count if like.is_cuda else 1
    return "few" if 2 * programs <= units else "some" if programs < 4 * units else "many"


def _registers(dtype: torch.dtype, like: Tensor) -> int | None:
    """A thread's limit; 168 would leave room for three programs an SM."""
    hopper = like.is_cuda and torch.cuda.get_device_capability(like.device) == (9, 0)
    return FACTORS["maxnreg"] if hopper and dtype == torch.bfloat16 else None


def _stages(wanted: int, dtype: torch.dtype, like: Tensor) -> int:
    """Chunks on their way: three take 198 KB at the 48B's widths on 9.0, 108 KB on 8.0; two fit into 99 KB."""
    if dtype == torch.float32:
        return 1
    roomy = not like.is_cuda or torch.cuda.get_device_capability(like.device) in ((8, 0), (9, 0), (10, 0), (10, 3))
    return wanted if roomy else min(wanted, 2)
