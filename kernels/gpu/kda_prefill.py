"""KDA over many new rows at once, two launches: what a chunk contributes, then the pass of the state along the chunks.

For a chunk of 64 rows with the running sum G of the gates, S the state before it (model-spec §4.1; kernels/kda.py):

    (I + L) N = R = β (V − (e^G K̂) S);  O = (e^G Q̂) S + P N;  S ← e^{G_C} S + (e^{G_C − G} K̂)ᵀ N

With X = (I + L)⁻¹, `_factors` makes all of a chunk and head that does not need S: P X, Xᵀ(e^{G_C − G} K̂) and the
decayed rows, so that `_scan`, which keeps S in registers along a sequence, has R where N stands. A row's norm is known
last: it goes into L, P, R and what X is applied to.

Exponents are base 2. Gates are summed by products with 0 and ±1, exact but for their own 16 bits. They are unbounded:
the decay between two rows is split only where both parts are known to be in range: at the middle of the chunk if 32
tokens keep every channel above 2^-RANGE; else rows of its later half meet those of its earlier half there (both parts
≤ 1) and the halves are treated likewise, down to single rows.
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
SLICE = 1024  # chunks whose factors are held at once: 1.9 GB at 32 heads
WARPS = 4  # of both launches; eight are slower
STAGES = 3  # chunks on their way to the scan
COLUMNS = 32  # of the state in a program of the scan; half of them where most of the device would be idle
UP_TO, AFTER = tl.constexpr(7 * 64 * 64), tl.constexpr(8 * 64 * 64)  # where these windows lie


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
    """Log2 decays [64,C] in two parts. a: addresses of the logits; rows that are not there decay nothing."""
    z = tl.load(a, here[:, None], -1e30).to(tl.float32) + tl.load(dt_bias)[None, :]
    g = log2_decay(z, rate, LOWER)
    upper: tl.constexpr = -1 if DT.primitive_bitwidth == 32 else -65536
    high = (g.to(tl.int32, bitcast=True) & upper).to(tl.float32, bitcast=True)  # cut off, not rounded: no conversion
    return g, high.to(DT), (g - high).to(DT)


@triton.jit
def _chunk(starts, first_chunk, sequence_of, chunk):
    """(its first row int64, which of its 64 rows there are)."""
    sequence = tl.load(sequence_of + chunk)
    begin = tl.load(starts + sequence) + (chunk - tl.load(first_chunk + sequence)) * 64
    return begin.to(tl.int64), begin + tl.arange(0, 64) < tl.load(starts + sequence + 1)


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
def _products(q, k, since, high, low, windows, P, L, RANGE: tl.constexpr, PRECISION: tl.constexpr):
    """Adds the decayed products of q and of k with k [64,C], right for i ≤ r; above that anything, even inf or nan."""
    if tl.max(tl.max(tl.abs(since), 1), 0) <= RANGE:
        near = tl.trans((k * tl.exp2(since * -1.0)).to(high.dtype))
        since = tl.exp2(since)
        P = tl.dot((q * since).to(high.dtype), near, P, input_precision=PRECISION)
        L = tl.dot((k * since).to(high.dtype), near, L, input_precision=PRECISION)
    else:
        P, L = _products_by_blocks(q, k, high, low, windows, P, L, RANGE, PRECISION)
    return P, L


@triton.jit
def _products_by_blocks(q, k, high, low, windows, P, L, RANGE: tl.constexpr, PRECISION: tl.constexpr):
    """The same for any gates: of blocks of 64, 32, … 1 rows those that cross the middle, at last all within a block."""
    r, i = tl.arange(0, 64)[:, None], tl.arange(0, 64)[None, :]
    level, far = 0, True
    while far:
        since = _sums(windows + level * 64 * 64, high, low, PRECISION)
        far = (tl.max(tl.max(tl.abs(since), 1), 0) > RANGE) & (level < 6)
        block, half = 6 - level, tl.maximum(5 - level, 0)
        meet = (r >> block == i >> block) & ((r >> half) - (i >> half) >= tl.where(far, 1, -64))
        near = tl.trans((k * tl.exp2(since * -1.0)).to(high.dtype))
        since = tl.exp2(since)
        P += tl.where(meet, tl.dot((q * since).to(high.dtype), near, input_precision=PRECISION), 0.0)
        L += tl.where(meet, tl.dot((k * since).to(high.dtype), near, input_precision=PRECISION), 0.0)
        level += 1
    return P, L


@triton.jit
def _factors(
    q, k, a, b, A_log, dt_bias, starts, first_chunk, sequence_of, windows,
    Kg, Qd, Kd, P, total, of_rows,
    from_chunk, q_scale,
    stride_q: tl.constexpr, stride_k: tl.constexpr, stride_a: tl.constexpr, stride_b: tl.constexpr,
    H: tl.constexpr, K: tl.constexpr, SLICE_K: tl.constexpr, LOWER: tl.constexpr,
    DT: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr, EPS: tl.constexpr, RANGE: tl.constexpr,
):  # fmt: skip
    """One chunk and head: Kg = e^G k, Qd = e^G q, Kd = Xᵀ(e^{G_C − G} k̂) [c,H,64,K], P X [c,H,64,64]; in fp32
    total = e^{G_C} [c,H,K] and of_rows [c,H,3,64]: K^-1/2 / ‖q‖, 1 / ‖k‖, β. Rows past the sequence's end are zeros.
    """
    head, local = tl.program_id(0), tl.program_id(1)
    row, here = _chunk(starts, first_chunk, sequence_of, from_chunk + local)
    place = (local * H + head).to(tl.int64)
    rate = tl.exp2(tl.load(A_log + head) * 1.4426950408889634)
    r = tl.arange(0, 64)
    q, k, a = q + row * stride_q + head * K, k + row * stride_k + head * K, a + row * stride_a + head * K
    Kg, Qd, Kd = Kg + place * (64 * K), Qd + place * (64 * K), Kd + place * (64 * K)
    products, L = tl.zeros((64, 64), tl.float32), tl.zeros((64, 64), tl.float32)
    qq, kk = tl.zeros((64,), tl.float32), tl.zeros((64,), tl.float32)

    for s in tl.range(0, K, SLICE_K, disable_licm=True):
        c = s + tl.arange(0, SLICE_K)
        g, high, low = _gates(a + r[:, None] * stride_a + c, dt_bias + head * K + c, rate, here, LOWER, DT)
        tl.store(total + place * K + c, tl.exp2(tl.sum(g, 0)))
        x = tl.load(q + r[:, None] * stride_q + c, here[:, None], 0.0).to(tl.float32)
        y = tl.load(k + r[:, None] * stride_k + c, here[:, None], 0.0).to(tl.float32)
        qq += tl.sum(x * x, 1)
        kk += tl.sum(y * y, 1)
        since = _sums(windows, high, low, PRECISION)
        products, L = _products(x, y, since, high, low, windows, products, L, RANGE, PRECISION)
        _store_decayed(Kg, Qd, Kd, x, y, high, low, windows, r[:, None] * K + c, PRECISION)

    q_norm, k_norm = tl.rsqrt(qq + EPS) * q_scale, tl.rsqrt(kk + EPS)
    beta = tl.sigmoid(tl.load(b + (row + r) * stride_b + head, here, 0.0).to(tl.float32))
    of_rows += place * (3 * 64) + r
    tl.store(of_rows, q_norm)
    tl.store(of_rows + 64, k_norm)
    tl.store(of_rows + 128, beta)
    _finish(P + place * (64 * 64), Kd, products, L, q_norm, k_norm, beta, INNER, PRECISION, K, SLICE_K)


@triton.jit
def _store_decayed(Kg, Qd, Kd, q, k, high, low, windows, at, PRECISION: tl.constexpr):
    """Rows decayed since the chunk's begin; of k until its end, too (a sum of its own: a difference would cancel)."""
    decay = tl.exp2(_sums(windows + UP_TO, high, low, PRECISION))
    tl.store(Qd + at, (q * decay).to(high.dtype))
    tl.store(Kg + at, (k * decay).to(high.dtype))
    decay = tl.exp2(_sums(windows + AFTER, high, low, PRECISION))
    tl.store(Kd + at, (k * decay).to(high.dtype))


@triton.jit
def _finish(
    P, Kd, products, L, q_norm, k_norm, beta, INNER: tl.constexpr, PRECISION: tl.constexpr, K: tl.constexpr,
    SLICE_K: tl.constexpr,
):  # fmt: skip
    """P X and, in the place of Kd, Xᵀ Kd; with unit q and k all operands are at most 1."""
    r = tl.arange(0, 64)
    L = tl.where(r[:, None] > r[None, :], L * (beta * k_norm)[:, None] * k_norm[None, :], 0.0)
    products = tl.where(r[:, None] >= r[None, :], products * q_norm[:, None] * k_norm[None, :], 0.0).to(INNER)
    X = _inverse(L.to(INNER), INNER, PRECISION).to(INNER)
    products = tl.dot(products, X, input_precision=PRECISION) * (1.0 / q_norm)[:, None]
    tl.store(P + r[:, None] * 64 + r, products.to(P.dtype.element_ty))
    tl.debug_barrier()  # other threads of this program wrote Kd
    for s in tl.range(0, K, SLICE_K):
        at = Kd + r[:, None] * K + s + tl.arange(0, SLICE_K)
        kd = (tl.load(at).to(tl.float32) * k_norm[:, None]).to(INNER)
        kd = tl.dot(tl.trans(X), kd, input_precision=PRECISION).to(Kd.dtype.element_ty)
        tl.debug_barrier()
        tl.store(at, kd)


@triton.jit
def _scan(
    v, Kg, Qd, Kd, P, total, of_rows, o, pool, slots, starts, first_chunk, snapshot_of, snapshots,
    from_chunk, to_chunk, stride_v, stride_slot,
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
        rows, square = r[:, None] * K + wide, r[:, None] * 64 + r
        keys, squares = place * (64 * K), place * (64 * 64)
        kg, qd, kd = tl.load(Kg + keys + rows), tl.load(Qd + keys + rows), tl.load(Kd + keys + rows)
        p = tl.load(P + squares + square)
        row = begin + (chunk - own) * 64
        here = (row + r < end)[:, None]
        values = v + row.to(tl.int64) * stride_v + head * V
        u = tl.load(values + r[:, None] * stride_v + columns, here, 0.0)
        kept = tl.load(total + place * K + wide)
        vectors = of_rows + place * (3 * 64) + r
        q_norm, k_norm, beta = tl.load(vectors), tl.load(vectors + 64), tl.load(vectors + 128)
        s = S.to(kg.dtype)
        n = beta[:, None] * (u.to(tl.float32) - k_norm[:, None] * tl.dot(kg, s, input_precision=PRECISION))
        n = n.to(kg.dtype)
        out = tl.dot(p, n, tl.dot(qd, s, input_precision=PRECISION), input_precision=PRECISION)
        S = tl.dot(tl.trans(kd), n, S * kept[:, None], input_precision=PRECISION)
        target = o + (row.to(tl.int64) * H + head) * V + r[:, None] * (H * V) + columns
        tl.store(target, (out * q_norm[:, None]).to(o.dtype.element_ty), here)
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
    With ``lower_bound`` (−5, say) the gate is that of newer models: g = lower_bound · σ(exp(A_log[h]) (a + dt_bias)).
    A_log [H], dt_bias [H·K] fp32; pool [slots,H,K,V] fp32; slots [N] int32, distinct: sequence n goes on from
    pool[slots[n]]. snapshots: (chunks [S] int32, out [S,H,K,V] fp32): the state after each of these chunks, numbered as
    the packing numbers them. K and V are powers of two from 16 up, K from 64 up in bf16 on a GPU.
    A sequence that is cut at a multiple of 64 rows and goes on later has the same bits; so has one packed with others.
    """
    o = torch.empty(v.shape, dtype=q.dtype, device=q.device)
    for factors, scan in launches(q, k, v, a, b, A_log, dt_bias, packing, pool, slots, snapshots, lower_bound, o):
        factors()
        scan()
    return o


def launches(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor, packing: Packing,
    pool: Tensor, slots: Tensor, snapshots: tuple[Tensor, Tensor] | None, lower_bound: float | None, o: Tensor,
) -> Iterator[tuple[Launch, Launch]]:  # fmt: skip
    """The two launches of each slice of SLICE chunks, in order; they share one scratch."""
    H, K, V = *q.shape[1:], v.shape[2]
    if q.is_cuda and K < 64 and q.dtype != torch.float32:
        raise ValueError(f"K = {K} in {q.dtype} comes out wrong on a GPU with Triton 3.6, not from 64 up")
    q, k, v, a = (_rows(x) for x in (q, k, v, a))
    dtype, elements, precision = _types(q.dtype)
    table = _snapshot_table(packing, snapshots)
    columns, stages = _columns(packing.sequences * H * V // COLUMNS, V, q), _stages(q)
    Kg, Qd, Kd, P, total, of_rows = _scratch(min(packing.chunks, SLICE), H, K, dtype, q.device)
    tables, windows = (packing.starts, packing.first_chunk, packing.sequence_of), _windows(q.device)
    strides, sizes = (q.stride(0), k.stride(0), a.stride(0)), (H, K, min(K, 64), lower_bound)
    kinds = (*elements, precision)
    for start in range(0, packing.chunks, SLICE):
        stop = min(start + SLICE, packing.chunks)
        yield (
            partial(
                _factors[(H, stop - start)],
                q, k, a, b, A_log, dt_bias, *tables, windows, Kg, Qd, Kd, P, total, of_rows,
                start, K**-0.5, *strides, b.stride(0), *sizes, *kinds, EPS, RANGE,
                num_warps=WARPS, num_stages=1,
            ),
            partial(
                _scan[(packing.sequences * H * (V // columns),)],
                v, Kg, Qd, Kd, P, total, of_rows, o, pool, slots, packing.starts, packing.first_chunk, *table,
                start, stop, v.stride(0), pool.stride(0), H, K, V, columns, stages, snapshots is not None, precision,
                num_warps=WARPS,
            ),
        )  # fmt: skip


def _scratch(chunks: int, H: int, K: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Kg, Qd, Kd, P; total, of_rows."""
    wide = [torch.empty(chunks, H, CHUNK, n, dtype=dtype, device=device) for n in (K, K, K, CHUNK)]
    narrow = [torch.empty(chunks, H, n, dtype=torch.float32, device=device) for n in (K, 3 * CHUNK)]
    return wide + narrow


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


def _types(dtype: torch.dtype) -> tuple[torch.dtype, tuple[tl.dtype, tl.dtype], str]:
    """Of the products' operands, of those within the inverse: its entries are at most 1, where fp16 is the finer."""
    if dtype == torch.float32:
        return dtype, (tl.float32, tl.float32), "tf32x3"
    return torch.bfloat16, (tl.bfloat16, tl.float16), "tf32"


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


def _columns(programs: int, V: int, like: Tensor) -> int:
    """Of a program of the scan, where there would be so many of COLUMNS. A column's bits stay the same."""
    units = torch.cuda.get_device_properties(like.device).multi_processor_count if like.is_cuda else 1
    return min(V, COLUMNS // 2 if 2 * programs <= units else COLUMNS)


def _stages(like: Tensor) -> int:
    """Three take 195 KB at the 48B's widths on 9.0, 108 KB on 8.0; two fit into 99 KB."""
    if like.dtype == torch.float32:
        return 1
    roomy = not like.is_cuda or torch.cuda.get_device_capability(like.device) in ((8, 0), (9, 0), (10, 0), (10, 3))
    return STAGES if roomy else 2
