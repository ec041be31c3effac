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
from functools import cache, partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.gate import log2_decay
from kernels.gpu.packing import CHUNK, Packing

Launch = Callable[[], Any]
EPS = 1e-6  # inside the root of the L2 norm
RANGE = 110.0  # log2 units; 2^±110 leaves bf16 room for raw keys up to 2^17
SLICE = 1024  # chunks whose factors are held at once: 2.4 GB at 32 heads

# One configuration a shape; bench/h200/kda_prefill_tune.py tries others by hand.
DECAYS: dict[str, Any] = {"slice_k": 64, "num_warps": 4, "maxnreg": 168}
APPLY: dict[str, Any] = {"slice": 64, "num_warps": 4, "maxnreg": None}
SCAN = {  # by how many programs of 32 columns there are
    "few": {"columns": 16, "num_warps": 4, "num_stages": 3},  # half of the device or less
    "some": {"columns": 32, "num_warps": 4, "num_stages": 3},
    "many": {"columns": 32, "num_warps": 4, "num_stages": 3},  # four times the device or more
}


@triton.jit
def _sums(window, high, low, PRECISION: tl.constexpr):
    """Sums of gates [64,C] over rows; window [64,64] of 0, ±1. A gate is high + low in bf16, or high alone in fp32."""
    r = tl.arange(0, 64)
    window = tl.load(window + r[:, None] * 64 + r)
    if high.dtype == tl.float32:
        sums = tl.dot(window.to(tl.float32), high, input_precision=PRECISION)
    else:
        sums = tl.dot(window, high, tl.dot(window, low))
    return sums


@triton.jit
def _gates(a, dt_bias, rate, here, LOWER: tl.constexpr, DT: tl.constexpr):
    """Log2 decays as two parts. a, the addresses [64,C]."""
    g = tl.load(a, here[:, None], 0.0).to(tl.float32) + tl.load(dt_bias)[None, :]
    g = tl.where(here[:, None], log2_decay(g, rate, LOWER), 0.0)
    high = g.to(DT)
    return g, high, (g - high.to(tl.float32)).to(DT)


@triton.jit
def _chunk(starts, first_chunk, sequence_of, chunk):
    """(its first row int64, which of its 64 rows there are)."""
    sequence = tl.load(sequence_of + chunk)
    begin = tl.load(starts + sequence) + (chunk - tl.load(first_chunk + sequence)) * 64
    return begin.to(tl.int64), begin + tl.arange(0, 64) < tl.load(starts + sequence + 1)


@triton.jit
def _decays(
    q, k, a, b, A_log, dt_bias, starts, first_chunk, sequence_of, windows,
    W, Qd, Kd, P, L, total, q_norm, rho_beta, far,
    from_chunk, q_scale,
    stride_q: tl.constexpr, stride_k: tl.constexpr, stride_a: tl.constexpr, stride_b: tl.constexpr,
    H: tl.constexpr, K: tl.constexpr, SLICE_K: tl.constexpr, LOWER: tl.constexpr,
    DT: tl.constexpr, PRECISION: tl.constexpr, EPS: tl.constexpr, RANGE: tl.constexpr,
):  # fmt: skip
    """One chunk and head. W: e^G k."""
    head, local = tl.program_id(0), tl.program_id(1)
    row, here = _chunk(starts, first_chunk, sequence_of, from_chunk + local)
    place = (local * H + head).to(tl.int64)
    rate = tl.exp2(tl.load(A_log + head) * 1.4426950408889634)
    r = tl.arange(0, 64)
    q, k, a = q + row * stride_q + head * K, k + row * stride_k + head * K, a + row * stride_a + head * K
    W, Qd, Kd = W + place * (64 * K), Qd + place * (64 * K), Kd + place * (64 * K)
    products, inner = tl.zeros((64, 64), tl.float32), tl.zeros((64, 64), tl.float32)
    qq, kk = tl.zeros((64,), tl.float32), tl.zeros((64,), tl.float32)
    widest = 0.0

    for s in tl.range(0, K, SLICE_K, disable_licm=True):
        c = s + tl.arange(0, SLICE_K)
        g, high, low = _gates(a + r[:, None] * stride_a + c, dt_bias + head * K + c, rate, here, LOWER, DT)
        tl.store(total + place * K + c, tl.exp2(tl.sum(g, 0)))
        x = tl.load(q + r[:, None] * stride_q + c, here[:, None], 0.0).to(tl.float32)
        y = tl.load(k + r[:, None] * stride_k + c, here[:, None], 0.0).to(tl.float32)
        qq += tl.sum(x * x, 1)
        kk += tl.sum(y * y, 1)
        since = _sums(windows, high, low, PRECISION)
        widest = tl.maximum(widest, tl.max(tl.max(tl.abs(since), 1), 0))
        near = tl.trans((y * tl.exp2(since * -1.0)).to(DT))
        since = tl.exp2(since)
        products = tl.dot((x * since).to(DT), near, products, input_precision=PRECISION)
        inner = tl.dot((y * since).to(DT), near, inner, input_precision=PRECISION)
        at = r[:, None] * K + c
        decay = tl.exp2(_sums(windows + 7 * 4096, high, low, PRECISION))
        tl.store(Qd + at, (x * decay).to(DT))
        tl.store(W + at, (y * decay).to(DT))
        decay = tl.exp2(_sums(windows + 8 * 4096, high, low, PRECISION))
        tl.store(Kd + at, (y * decay).to(DT))

    tl.store(far + place, widest > RANGE)
    tl.store(q_norm + place * 64 + r, tl.rsqrt(qq + EPS) * q_scale)
    rho = tl.rsqrt(kk + EPS)
    beta = tl.sigmoid(tl.load(b + (row + r) * stride_b + head, here, 0.0).to(tl.float32))
    tl.store(rho_beta + place * 128 + r, rho)
    tl.store(rho_beta + place * 128 + 64 + r, beta)
    _store_products(P, L, products, inner, rho, beta, place)


@triton.jit
def _store_products(P, L, products, inner, rho, beta, place):
    """P and (β ρ) L ρ, as the inverse takes it: all entries at most 1."""
    r = tl.arange(0, 64)
    at = place * (64 * 64) + r[:, None] * 64 + r
    tl.store(P + at, tl.where(r[:, None] >= r[None, :], products, 0.0).to(P.dtype.element_ty))
    inner = inner * (beta * rho)[:, None] * rho[None, :]
    tl.store(L + at, tl.where(r[:, None] > r[None, :], inner, 0.0).to(L.dtype.element_ty))


@triton.jit
def _block_products(q, k, window, high, low, half, P, L, RANGE: tl.constexpr, PRECISION: tl.constexpr):
    """Adds the products within blocks of 2·half rows: all if the range holds, else those that cross the middle."""
    r = tl.arange(0, 64)
    apart = r[:, None] ^ r[None, :]
    since = _sums(window, high, low, PRECISION)
    far = tl.max(tl.max(tl.abs(since), 1), 0) > RANGE
    near = tl.trans((k * tl.exp2(since * -1.0)).to(high.dtype))
    since = tl.exp2(since)
    meet = (apart < tl.maximum(2 * half, 1)) & (apart >= tl.where(far, half, 0))
    P += tl.where(meet, tl.dot((q * since).to(high.dtype), near, input_precision=PRECISION), 0.0)
    L += tl.where(meet, tl.dot((k * since).to(high.dtype), near, input_precision=PRECISION), 0.0)
    return P, L, far


@triton.jit
def _far_products(
    q, k, a, A_log, dt_bias, starts, first_chunk, sequence_of, windows, P, L, rho_beta, far,
    from_chunk, stride_q: tl.constexpr, stride_k: tl.constexpr, stride_a: tl.constexpr,
    H: tl.constexpr, K: tl.constexpr, SLICE_K: tl.constexpr, LOWER: tl.constexpr,
    DT: tl.constexpr, PRECISION: tl.constexpr, RANGE: tl.constexpr,
):  # fmt: skip
    """P and L of the chunks and heads where the range does not hold."""
    head, local = tl.program_id(0), tl.program_id(1)
    place = (local * H + head).to(tl.int64)
    if tl.load(far + place) == 0:
        return
    row, here = _chunk(starts, first_chunk, sequence_of, from_chunk + local)
    rate = tl.exp2(tl.load(A_log + head) * 1.4426950408889634)
    r = tl.arange(0, 64)
    products, inner = tl.zeros((64, 64), tl.float32), tl.zeros((64, 64), tl.float32)
    for s in tl.range(0, K, SLICE_K, disable_licm=True):
        c = head * K + s + tl.arange(0, SLICE_K)
        _, high, low = _gates(a + (row + r[:, None]) * stride_a + c, dt_bias + c, rate, here, LOWER, DT)
        x = tl.load(q + (row + r[:, None]) * stride_q + c, here[:, None], 0.0).to(tl.float32)
        y = tl.load(k + (row + r[:, None]) * stride_k + c, here[:, None], 0.0).to(tl.float32)
        level, wide = 0, True
        while wide:
            products, inner, wide = _block_products(
                x, y, windows + level * 4096, high, low, 32 >> level, products, inner, RANGE, PRECISION
            )
            wide, level = wide & (level < 6), level + 1
    rho, beta = tl.load(rho_beta + place * 128 + r), tl.load(rho_beta + place * 128 + 64 + r)
    _store_products(P, L, products, inner, rho, beta, place)


@triton.jit
def _merged(X, L, SIDE: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr):
    """Inverses of the diagonal blocks of side 2 SIDE from those of side SIDE: [A 0; C B]⁻¹ = [A⁻¹ 0; −B⁻¹CA⁻¹ B⁻¹].

    XLX has all B⁻¹CA⁻¹ and, for blocks further apart, what is not wanted.
    """
    r = tl.arange(0, 64)
    wanted = tl.where((r // SIDE) % 2 == 1, r // SIDE - 1, -1)[:, None] == (r // SIDE)[None, :]
    outer = X.to(INNER)
    step = tl.dot(outer, L, input_precision=PRECISION).to(INNER)
    return X - tl.where(wanted, tl.dot(step, outer, input_precision=PRECISION), 0.0)


@triton.jit
def _inverse(L, INNER: tl.constexpr, PRECISION: tl.constexpr):
    """(I + L)⁻¹ of a strictly lower L [64,64], merged from blocks of 2 rows up.

    Every entry is a product of contractions, at most 1: fp16 operands lose little. (Powers of L would grow.)
    """
    r = tl.arange(0, 64)
    row, column = r[:, None], r[None, :]
    X = tl.where(row == column, 1.0, tl.where((row == column + 1) & (row % 2 == 1), -L.to(tl.float32), 0.0))
    for level in tl.static_range(1, 6):
        X = _merged(X, L, 1 << level, INNER, PRECISION)
    return X


@triton.jit
def _apply(
    v, starts, first_chunk, sequence_of, U, W, L, rho_beta, from_chunk,
    stride_v: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    SLICE_K: tl.constexpr, SLICE_V: tl.constexpr, DT: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """U and W of one chunk and head; W holds e^G k before."""
    head, local = tl.program_id(0), tl.program_id(1)
    row, here = _chunk(starts, first_chunk, sequence_of, from_chunk + local)
    place = (local * H + head).to(tl.int64)
    r = tl.arange(0, 64)
    v += row * stride_v + head * V
    U, W = U + place * (64 * V), W + place * (64 * K)
    rho, beta = tl.load(rho_beta + place * 128 + r), tl.load(rho_beta + place * 128 + 64 + r)
    X = _inverse(tl.load(L + place * (64 * 64) + r[:, None] * 64 + r), INNER, PRECISION)
    X = X * rho[:, None] * beta[None, :]
    X_u, X_w = X.to(DT), (X * rho[None, :]).to(DT)
    for s in range(0, V, SLICE_V):
        c = s + tl.arange(0, SLICE_V)
        x = tl.load(v + r[:, None] * stride_v + c, here[:, None], 0.0).to(DT)
        tl.store(U + r[:, None] * V + c, tl.dot(X_u, x, input_precision=PRECISION).to(DT))
    for s in range(0, K, SLICE_K):
        at = W + r[:, None] * K + s + tl.arange(0, SLICE_K)
        w = tl.dot(X_w, tl.load(at), input_precision=PRECISION).to(DT)
        tl.debug_barrier()
        tl.store(at, w)


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
    lower_bound: float | None = None,
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
    for slice_of_chunks in launches(q, k, v, a, b, A_log, dt_bias, packing, pool, slots, snapshots, lower_bound, o):
        for launch in slice_of_chunks:
            launch()
    return o


def launches(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor, packing: Packing,
    pool: Tensor, slots: Tensor, snapshots: tuple[Tensor, Tensor] | None, lower_bound: float | None, o: Tensor,
) -> Iterator[tuple[Launch, ...]]:  # fmt: skip
    """The launches of each slice of SLICE chunks, in order: decays, far products, apply, scan. They share a scratch."""
    H, K, V = *q.shape[1:], v.shape[2]
    if q.is_cuda and K < 64 and q.dtype != torch.float32:
        raise ValueError(f"K = {K} in {q.dtype} comes out wrong on a GPU with Triton 3.6, not from 64 up")
    q, k, v, a = (_rows(x) for x in (q, k, v, a))
    dtype, inner, precision = _types(q.dtype)
    table = _snapshot_table(packing, snapshots)
    scan = SCAN[_fill(packing.sequences * H * V // 32, q)]
    columns, stages = min(V, scan["columns"]), _stages(scan["num_stages"], q)
    U, W, Qd, Kd, P, L, total, q_norm, rho_beta, far = _scratch(min(packing.chunks, SLICE), H, K, V, dtype, q.device)
    gates, tables = (A_log, dt_bias), (packing.starts, packing.first_chunk, packing.sequence_of)
    strides, windows = (q.stride(0), k.stride(0), a.stride(0)), _windows(q.device)
    kinds = (_element(dtype), precision)
    for start in range(0, packing.chunks, SLICE):
        stop = min(start + SLICE, packing.chunks)
        grid = (H, stop - start)
        yield (
            partial(
                _decays[grid],
                q, k, a, b, *gates, *tables, windows, W, Qd, Kd, P, L, total, q_norm, rho_beta, far, start, K**-0.5,
                *strides, b.stride(0), H, K, min(K, DECAYS["slice_k"]), lower_bound, *kinds, EPS, RANGE,
                num_warps=DECAYS["num_warps"], num_stages=1, maxnreg=_registers(DECAYS, q),
            ),
            partial(
                _far_products[grid],
                q, k, a, *gates, *tables, windows, P, L, rho_beta, far, start,
                *strides, H, K, min(K, 64), lower_bound, *kinds, RANGE, num_warps=4, num_stages=1,
            ),
            partial(
                _apply[grid],
                v, *tables, U, W, L, rho_beta, start, v.stride(0), H, K, V,
                min(K, APPLY["slice"]), min(V, APPLY["slice"]), kinds[0], _element(inner), precision,
                num_warps=APPLY["num_warps"], num_stages=1, maxnreg=_registers(APPLY, q),
            ),
            partial(
                _scan[(packing.sequences * H * (V // columns),)],
                U, W, Qd, Kd, P, total, q_norm, o, pool, slots, packing.starts, packing.first_chunk, *table,
                start, stop, pool.stride(0), H, K, V, columns, stages, snapshots is not None, precision,
                num_warps=scan["num_warps"],
            ),
        )  # fmt: skip


def _scratch(chunks: int, H: int, K: int, V: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """U, W, Qd, Kd, P, L; total, q_norm, rho_beta; far."""
    wide = [torch.empty(chunks, H, CHUNK, n, dtype=dtype, device=device) for n in (V, K, K, K, CHUNK)]
    wide.append(torch.empty(chunks, H, CHUNK, CHUNK, dtype=_types(dtype)[1], device=device))
    narrow = [torch.empty(chunks, H, n, dtype=torch.float32, device=device) for n in (K, CHUNK, 2 * CHUNK)]
    return [*wide, *narrow, torch.empty(chunks, H, dtype=torch.int32, device=device)]


@cache
def _windows(device: torch.device) -> Tensor:
    """[9,64,64] bf16, what `_sums` takes: since the middle of blocks of 64, 32, … 1 rows; up to a row; after it."""

    def table(entry: Callable[[int, int], int]) -> list[list[int]]:
        return [[entry(r, i) for i in range(64)] for r in range(64)]

    def since_middle(half: int) -> Callable[[int, int], int]:
        return lambda r, i: 0 if r ^ i >= half else int(i <= r) if r & half else -int(i > r)

    tables = [table(since_middle(half)) for half in (32, 16, 8, 4, 2, 1, 0)]
    tables += [table(lambda r, i: int(i <= r)), table(lambda r, i: int(i > r))]
    return torch.tensor(tables, dtype=torch.bfloat16, device=device)


def _types(dtype: torch.dtype) -> tuple[torch.dtype, torch.dtype, str]:
    """Of the products' operands, of those within the inverse (its entries are at most 1, where fp16 is the finer)."""
    fp32 = dtype == torch.float32
    return (dtype, dtype, "tf32x3") if fp32 else (torch.bfloat16, torch.float16, "tf32")


def _element(dtype: torch.dtype) -> tl.dtype:
    return {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}[dtype]


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


def _registers(configuration: dict[str, Any], like: Tensor) -> int | None:
    hopper = like.is_cuda and torch.cuda.get_device_capability(like.device) == (9, 0)
    return configuration["maxnreg"] if hopper and like.dtype != torch.float32 else None


def _stages(wanted: int, like: Tensor) -> int:
    """Chunks on their way: three take 198 KB at the 48B's widths on 9.0, 108 KB on 8.0; two fit into 99 KB."""
    if like.dtype == torch.float32:
        return 1
    roomy = not like.is_cuda or torch.cuda.get_device_capability(like.device) in ((8, 0), (9, 0), (10, 0), (10, 3))
    return wanted if roomy else min(wanted, 2)
