"""What works row by row: norms, the short convolution, SwiGLU, new latents into their pages, products of few rows
with a weight, and the likeliest token.

Every row is summed in the same order wherever it stands and however many rows come with it.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernels.gpu.early import call, early, follow, launch
from kernels.gpu.packing import CHUNK, Packing

FEW = 16  # rows that ``linear`` takes
LINEAR = (32, 128, 2, 4)  # its tile: rows and columns of the weight, warps, stages
THIN = (16, 128, 1, 7)  # that for a weight of at most NARROW rows, which gives more programs
NARROW = 32 * 132
L2 = 20e6  # bytes of a weight that are called to the L2 cache at most
CALLED = 512  # columns, at a time
HELD = 9  # pieces of 16 bytes of a weight that a thread of ``narrow`` holds
WARPS = 4
PIECE = 512  # bytes of a row that a warp reads at once
COLUMNS = 4096  # logits that one program of ``greedy`` looks at


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``w ⊙ x / sqrt(mean(x²) + eps)``, multiplied by the weight before the cast. x [T,D] -> [T,D] in x's dtype."""
    out, width = torch.empty(x.shape, dtype=x.dtype, device=x.device), triton.next_power_of_2(x.shape[1])
    overlap = x.shape[0] <= FEW and early(x.device)
    _rms_norm[(x.shape[0],)](
        x, weight, out, x.stride(0), eps, D=x.shape[1], WIDTH=width, EARLY=overlap, num_warps=_warps(width),
        **launch(overlap),
    )  # fmt: skip
    return out


@triton.jit
def _rms_norm(x, weight, out, x_row, eps, D: tl.constexpr, WIDTH: tl.constexpr, EARLY: tl.constexpr):
    row, columns = tl.program_id(0).to(tl.int64), tl.arange(0, WIDTH)
    there = columns < D
    w = tl.load(weight + columns, mask=there, other=0.0).to(tl.float32)
    follow(EARLY)
    wide = tl.load(x + row * x_row + columns, mask=there, other=0.0).to(tl.float32)
    wide *= tl.rsqrt(tl.sum(wide * wide, 0) / D + eps) * w
    tl.store(out + row * D + columns, wide.to(out.dtype.element_ty), mask=there)


def gated_rms_norm(o: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``rms_norm(o) ⊙ sigmoid(z)`` by heads. o [T,H,V], z [T,H·V], weight [V] -> [T,H·V] in z's dtype."""
    rows, heads, value = o.shape
    width = triton.next_power_of_2(value)
    together = max(1, min(triton.next_power_of_2(heads), 4096 // width))
    out = torch.empty(z.shape, dtype=z.dtype, device=z.device)
    _gated_rms_norm[(rows, triton.cdiv(heads, together))](
        o, z, weight, out, o.stride(0), z.stride(0), eps,
        H=heads, V=value, WIDTH=width, TOGETHER=together, num_warps=_warps(together * width),
    )  # fmt: skip
    return out


@triton.jit
def _gated_rms_norm(
    o, z, weight, out, o_row, z_row, eps,
    H: tl.constexpr, V: tl.constexpr, WIDTH: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    row, columns = tl.program_id(0).to(tl.int64), tl.arange(0, WIDTH)
    heads = tl.program_id(1) * TOGETHER + tl.arange(0, TOGETHER)
    cells = heads[:, None] * V + columns[None, :]
    there = (heads < H)[:, None] & (columns < V)[None, :]
    value = tl.load(o + row * o_row + cells, mask=there, other=0.0).to(tl.float32)
    gate = tl.load(z + row * z_row + cells, mask=there, other=0.0).to(tl.float32)
    w = tl.load(weight + columns, mask=columns < V, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, 1) / V + eps)
    value = value * scale[:, None] * w[None, :] * tl.sigmoid(gate)
    tl.store(out + row * (H * V) + cells, value.to(out.dtype.element_ty), mask=there)


def swiglu(x: Tensor) -> Tensor:
    """``silu(gate) ⊙ up`` of x [T,2I], gate in the first half -> [T,I]."""
    rows, width = x.shape[0], x.shape[1] // 2
    out = torch.empty(rows, width, dtype=x.dtype, device=x.device)
    overlap = rows <= FEW and early(x.device)
    _swiglu[(rows, triton.cdiv(width, 1024))](
        x, out, x.stride(0), N=width, WIDTH=1024, EARLY=overlap, num_warps=4, **launch(overlap)
    )
    return out


@triton.jit
def _swiglu(x, out, x_row, N: tl.constexpr, WIDTH: tl.constexpr, EARLY: tl.constexpr):
    follow(EARLY)
    row, columns = tl.program_id(0).to(tl.int64), tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    there = columns < N
    gate = tl.load(x + row * x_row + columns, mask=there, other=0.0).to(tl.float32)
    up = tl.load(x + row * x_row + N + columns, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row * N + columns, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=there)


def short_conv(x: Tensor, weight: Tensor, packing: Packing, conv_pool: Tensor, slots: Tensor) -> Tensor:
    """``y[t,c] = SiLU( Σ_j w[c,j] · x[t-W+1+j, c] )``, causal, per channel; the inputs before a sequence's first row
    come from the pool, and its last W-1 inputs are left there (model-spec §2.2, 2).

    x [T,C] packed rows; weight [C,W]; conv_pool [slots,W-1,C] in x's dtype, oldest first; slots [N] int32, distinct
    -> y [T,C] in x's dtype. Where a sequence is cut does not change a bit.
    """
    channels, width = weight.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _short_conv[(packing.chunks, triton.cdiv(channels, 128))](
        x, weight, packing.starts, packing.first_chunk, packing.sequence_of, conv_pool, slots, out,
        x.stride(0), conv_pool.stride(0),
        C=channels, W=width, TAPS=triton.next_power_of_2(width), CHUNK=CHUNK, WIDTH=128, num_warps=8,
    )  # fmt: skip
    return out


@triton.jit
def _short_conv(
    x, weight, starts, first_chunk, sequence_of, conv_pool, slots, out, x_row, conv_slot,
    C: tl.constexpr, W: tl.constexpr, TAPS: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """A chunk of a sequence. The program of its first chunk alone meets the pool: it reads the history, then leaves the
    newest inputs, wherever in the sequence they are."""
    chunk, columns = tl.program_id(0), tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    sequence = tl.load(sequence_of + chunk)
    number = chunk - tl.load(first_chunk + sequence)
    start, stop = tl.load(starts + sequence).to(tl.int64), tl.load(starts + sequence + 1).to(tl.int64)
    history = conv_pool + tl.load(slots + sequence).to(tl.int64) * conv_slot + columns[None, :]
    rows = number * CHUNK + tl.arange(0, CHUNK)  # of the sequence
    length = (stop - start).to(tl.int32)
    inputs = x + start * x_row + columns[None, :]
    there, within = (columns < C)[None, :], (rows < length)[:, None]
    total = tl.zeros([CHUNK, WIDTH], tl.float32)
    for tap in tl.static_range(W):
        at = rows[:, None] + (tap - W + 1)
        value = tl.load(inputs + at.to(tl.int64) * x_row, mask=(at >= 0) & within & there, other=0.0).to(tl.float32)
        if number == 0:
            value += tl.load(history + (at + W - 1) * C, mask=(at < 0) & within & there, other=0.0).to(tl.float32)
        w = tl.load(weight + columns * W + tap, mask=columns < C, other=0.0).to(tl.float32)
        total += value * w[None, :]
    place = (start + rows)[:, None] * C + columns[None, :]
    tl.store(out + place, (total * tl.sigmoid(total)).to(out.dtype.element_ty), mask=within & there)
    if number == 0:
        _leave(inputs, x_row, history, length, there, C, W, TAPS)


@triton.jit
def _leave(inputs, x_row, history, length, there, C: tl.constexpr, W: tl.constexpr, TAPS: tl.constexpr):
    """The last W-1 inputs of a sequence become its history; a shorter sequence shifts what was there."""
    taps = tl.arange(0, TAPS)
    at = (length + taps - W + 1)[:, None]
    kept = (taps < W - 1)[:, None] & there
    value = tl.load(inputs + at.to(tl.int64) * x_row, mask=kept & (at >= 0), other=0.0)
    value += tl.load(history + (at + W - 1) * C, mask=kept & (at < 0), other=0.0)
    tl.debug_barrier()  # all threads have read the history
    tl.store(history + taps[:, None] * C, value, mask=kept)


def put_latents(
    latent: Tensor, pages: Tensor, tables: Tensor, packing: Packing, lengths: Tensor, norm_weight: Tensor, eps: float,
    rank: int,
) -> None:  # fmt: skip
    """Writes each row, its first ``rank`` columns rms-normed, to its place in the pages of its sequence.

    latent [T,R+r] packed rows; pages [P,page,R+r]; tables [N,max_pages] int32; lengths [N] int32 with the new rows: row
    i of the n rows of a sequence is its token length - n + i. A length of 0 is an idle sequence: nothing is written.
    """
    width, overlap = latent.shape[1], latent.shape[0] <= FEW and early(latent.device)
    _put_latents[(latent.shape[0],)](
        latent, pages, tables, packing.starts, lengths, norm_weight, latent.stride(0), pages.stride(0), pages.stride(1),
        tables.stride(0), packing.sequences, eps, PAGE=pages.shape[1], R=rank, SHARED=width - rank,
        RANK_WIDTH=triton.next_power_of_2(rank), SHARED_WIDTH=triton.next_power_of_2(width - rank),
        SEQUENCES=triton.next_power_of_2(packing.sequences), EARLY=overlap, num_warps=1, **launch(overlap),
    )  # fmt: skip


@triton.jit(do_not_specialize=["sequences"])
def _put_latents(
    latent, pages, tables, starts, lengths, norm_weight, latent_row, page_stride, page_row, table_row, sequences, eps,
    PAGE: tl.constexpr, R: tl.constexpr, SHARED: tl.constexpr,
    RANK_WIDTH: tl.constexpr, SHARED_WIDTH: tl.constexpr, SEQUENCES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    follow(EARLY)
    row, numbers = tl.program_id(0), tl.arange(0, SEQUENCES)
    ends = tl.load(starts + 1 + numbers, mask=numbers < sequences, other=2147483647)
    sequence = tl.sum((ends <= row).to(tl.int32), 0)
    position = tl.load(lengths + sequence) - tl.load(starts + sequence + 1) + row
    if position >= 0:
        page = tl.load(tables + sequence.to(tl.int64) * table_row + position // PAGE).to(tl.int64)
        target = pages + page * page_stride + (position % PAGE) * page_row
        source = latent + row.to(tl.int64) * latent_row
        columns, shared = tl.arange(0, RANK_WIDTH), tl.arange(0, SHARED_WIDTH)
        value = tl.load(source + columns, mask=columns < R, other=0.0).to(tl.float32)
        w = tl.load(norm_weight + columns, mask=columns < R, other=0.0).to(tl.float32)
        value *= tl.rsqrt(tl.sum(value * value, 0) / R + eps) * w
        tl.store(target + columns, value.to(pages.dtype.element_ty), mask=columns < R)
        rest = tl.load(source + R + shared, mask=shared < SHARED, other=0.0)
        tl.store(target + R + shared, rest.to(pages.dtype.element_ty), mask=shared < SHARED)


class Norm(NamedTuple):
    weight: Tensor
    eps: float


def linear(x: Tensor, weight: Tensor, add: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """``x·weightᵀ``, and ``add``, for at most 16 rows. x [T,K], weight [N,K], add [T,N] -> [T,N] in dtype, else x's.

    Summed in fp32. One pass over the weight at the memory's speed, on tensor cores for any number of rows, the missing
    ones zeros: a row's bits depend on nothing beside it.
    """
    (rows, width), size = x.shape, weight.shape[0]
    if rows > FEW:
        raise ValueError(f"{rows} rows; linear takes at most {FEW}")
    columns, depth, warps, stages = LINEAR if size > NARROW else THIN
    exact, overlap = x.dtype == torch.float32, early(x.device)
    depth = min(depth, max(16, triton.next_power_of_2(width)))
    out = torch.empty(rows, size, dtype=dtype or x.dtype, device=x.device)
    _linear[(triton.cdiv(size, columns),)](
        x, weight, add, out, rows, x.stride(0), weight.stride(0), 0 if add is None else add.stride(0), N=size, K=width,
        FEW=8 if rows <= 8 else FEW, COLUMNS=columns, DEPTH=depth, EXACT=exact, EARLY=overlap,
        AHEAD=min(width, int(L2 // (size * weight.element_size())) // CALLED * CALLED), CALLED=CALLED,
        num_warps=warps, num_stages=2 if exact else stages, **launch(overlap),
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["rows"])
def _linear(
    x, weight, add, out, rows, x_row, weight_row, add_row, N: tl.constexpr, K: tl.constexpr, FEW: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr, EXACT: tl.constexpr, EARLY: tl.constexpr, AHEAD: tl.constexpr,
    CALLED: tl.constexpr,
):  # fmt: skip
    """Some columns of the result: the weight's rows are the product's rows, so that 8 rows of x fill its other side.

    Two sums, of every second step each: one alone would wait for the product before it. AHEAD columns of the weight are
    called to the L2 cache while the launch before still runs.
    """
    few, columns = tl.arange(0, FEW), tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    left, there = weight + tl.minimum(columns, N - 1)[:, None].to(tl.int64) * weight_row, (columns < N)[:, None]
    right, asked = x + few[None, :] * x_row, (few < rows)[None, :]
    if EARLY:
        gdc_launch_dependents()
        line = tl.arange(0, 8)[None, :] * (CALLED // 8)
        for start in range(0, AHEAD, CALLED):
            call(left + tl.minimum(start + line, K - 1))
        gdc_wait()
    even, odd = tl.zeros([COLUMNS, FEW], tl.float32), tl.zeros([COLUMNS, FEW], tl.float32)
    for start in tl.range(0, K, 2 * DEPTH):
        even = _step(left, right, there, asked, start, even, K, DEPTH, EXACT)
        odd = _step(left, right, there, asked, start + DEPTH, odd, K, DEPTH, EXACT)
    total = even + odd
    if add is not None:
        total += tl.load(add + few[None, :] * add_row + columns[:, None], mask=there & asked, other=0.0).to(tl.float32)
    tl.store(out + few[None, :] * N + columns[:, None], total.to(out.dtype.element_ty), mask=there & asked)


@triton.jit
def _step(left, right, there, asked, start, total, K: tl.constexpr, DEPTH: tl.constexpr, EXACT: tl.constexpr):
    depth = start + tl.arange(0, DEPTH)
    a = tl.load(left + depth[None, :], mask=there & (depth < K)[None, :], other=0.0)
    b = tl.load(right + depth[:, None], mask=asked & (depth < K)[:, None], other=0.0)
    return tl.dot(a, b, total, input_precision="ieee" if EXACT else "tf32")


def narrow(x: Tensor, norm: Norm, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The rms_norm of at most 16 rows, and its product with the few rows of a weight (a router's), from the norm before
    it was rounded. x [T,K], weight [N,K] -> (normed [T,K] in x's dtype, [T,N] fp32).

    A warp for some of the weight's rows, which it holds before the launch before has ended. A row's bits depend on
    nothing beside it: a thread adds every 32nd piece of 16 bytes in their order, then the threads add in pairs.
    """
    (rows, width), columns = x.shape, weight.shape[0]
    if rows > FEW:
        raise ValueError(f"{rows} rows; narrow takes at most {FEW}")
    depth, overlap = PIECE // weight.element_size(), early(x.device)
    normed, out = torch.empty_like(x), torch.empty(rows, columns, dtype=torch.float32, device=x.device)
    _narrow[(triton.cdiv(columns, WARPS),)](
        x, weight, norm.weight, normed, out, rows, x.stride(0), normed.stride(0), norm.eps, N=columns, K=width,
        DEPTH=depth, STEPS=min(triton.cdiv(width, depth), HELD), WARPS=WARPS, EARLY=overlap, num_warps=WARPS,
        **launch(overlap),
    )  # fmt: skip
    return normed, out


@triton.jit(do_not_specialize=["rows"])
def _narrow(
    x, weight, norm, normed, out, rows, x_row, normed_row, eps, N: tl.constexpr, K: tl.constexpr, DEPTH: tl.constexpr,
    STEPS: tl.constexpr, WARPS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """A column of the result for each warp; of rows longer than STEPS pieces, so many are held."""
    column = tl.program_id(0) * WARPS + tl.arange(0, WARPS)
    same = 0 * column[:, None]
    lines, held = weight + tl.minimum(column, N - 1)[:, None] * K, ()
    if EARLY:
        gdc_launch_dependents()
    for step in tl.static_range(STEPS):
        held = held + (piece(lines, step * DEPTH, K, DEPTH), piece(norm + same, step * DEPTH, K, DEPTH))
    if EARLY:
        gdc_wait()
    for row in range(rows):
        cells = x + row * x_row + same
        total, square = tl.zeros([WARPS, DEPTH], tl.float32), tl.zeros([WARPS, DEPTH], tl.float32)
        for step in tl.static_range(STEPS):
            value = piece(cells, step * DEPTH, K, DEPTH).to(tl.float32)
            square += value * value
            total += held[2 * step].to(tl.float32) * (value * held[2 * step + 1].to(tl.float32))
        for start in range(STEPS * DEPTH, K, DEPTH):
            value = piece(cells, start, K, DEPTH).to(tl.float32)
            square += value * value
            value *= piece(norm + same, start, K, DEPTH).to(tl.float32)
            total += piece(lines, start, K, DEPTH).to(tl.float32) * value
        scale = tl.rsqrt(tl.sum(square, 1) / K + eps)
        tl.store(out + row * N + column, tl.sum(total, 1) * scale, mask=column < N)
        if tl.program_id(0) == 0:
            _leave_normed(cells, norm + same, scale, normed + row * normed_row + same, K, DEPTH)


@triton.jit
def _leave_normed(x, norm, scale, normed, K: tl.constexpr, DEPTH: tl.constexpr):
    for start in range(0, K, DEPTH):
        at = start + tl.arange(0, DEPTH)[None, :]
        wide = piece(x, start, K, DEPTH).to(tl.float32) * scale[:, None] * piece(norm, start, K, DEPTH).to(tl.float32)
        tl.store(normed + at, wide.to(normed.dtype.element_ty), mask=at < K)


@triton.jit
def piece(lines, start, K: tl.constexpr, DEPTH: tl.constexpr):
    """DEPTH columns of the rows that begin at lines [rows,1], zeros from K on. With a row for each warp and DEPTH as
    ``PIECE`` has it, 16 bytes for each thread, and all sums along it stay within a warp."""
    column = start + tl.arange(0, DEPTH)[None, :]
    if K % DEPTH == 0:
        found = tl.load(lines + column)
    else:
        found = tl.load(lines + column, mask=column < K, other=0.0)
    return found


def greedy(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The likeliest token of each row, the smaller of equals, and the natural logarithm of its probability.

    logits [B,vocabulary] -> (token [B] int64, logprob [B] fp32, whether all logits are finite [B] int32).
    """
    rows, width = logits.shape
    parts = triton.cdiv(width, COLUMNS)
    peaks, masses = (torch.empty(rows, parts, device=logits.device) for _ in range(2))
    places, sound = (torch.empty(rows, parts, dtype=torch.int32, device=logits.device) for _ in range(2))
    token = torch.empty(rows, dtype=torch.int64, device=logits.device)
    logprob, finite = torch.empty(rows, device=logits.device), torch.empty_like(token, dtype=torch.int32)
    overlap = early(logits.device)
    _peaks[(parts, rows)](
        logits, peaks, places, masses, sound, logits.stride(0), N=width, WIDTH=COLUMNS, EARLY=overlap, num_warps=8,
        **launch(overlap),
    )  # fmt: skip
    _best[(rows,)](
        peaks, places, masses, sound, token, logprob, finite, PARTS=parts, WIDTH=triton.next_power_of_2(parts),
        EARLY=overlap, num_warps=1, **launch(overlap),
    )  # fmt: skip
    return token, logprob, finite


@triton.jit
def _peaks(
    logits, peaks, places, masses, sound, logits_row, N: tl.constexpr, WIDTH: tl.constexpr, EARLY: tl.constexpr
):  # fmt: skip
    follow(EARLY)
    part, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    columns = part * WIDTH + tl.arange(0, WIDTH)
    x = tl.load(logits + row * logits_row + columns, mask=columns < N, other=float("-inf")).to(tl.float32)
    peak = tl.max(x, 0)
    here = row * tl.num_programs(0) + part
    tl.store(peaks + here, peak)
    tl.store(places + here, tl.min(tl.where(x == peak, columns, N), 0))
    tl.store(masses + here, tl.sum(tl.where(x == float("-inf"), 0.0, tl.exp(x - peak)), 0))
    tl.store(sound + here, tl.min(((tl.abs(x) < float("inf")) | (columns >= N)).to(tl.int32), 0))  # NaN is not less


@triton.jit
def _best(
    peaks, places, masses, sound, token, logprob, finite, PARTS: tl.constexpr, WIDTH: tl.constexpr, EARLY: tl.constexpr
):  # fmt: skip
    follow(EARLY)
    row, parts = tl.program_id(0).to(tl.int64), tl.arange(0, WIDTH)
    there = parts < PARTS
    peak = tl.load(peaks + row * PARTS + parts, mask=there, other=float("-inf"))
    place = tl.load(places + row * PARTS + parts, mask=there, other=2147483647)
    mass = tl.load(masses + row * PARTS + parts, mask=there, other=0.0)
    best = tl.max(peak, 0)
    tl.store(token + row, tl.min(tl.where(peak == best, place, 2147483647), 0).to(tl.int64))
    total = tl.sum(tl.where(mass == 0.0, 0.0, mass * tl.exp(peak - best)), 0)
    tl.store(logprob + row, -tl.log(total))
    tl.store(finite + row, tl.min(tl.load(sound + row * PARTS + parts, mask=there, other=1), 0))


def _warps(elements: int) -> int:
    """16 bytes of bf16 a thread, at most 8 warps."""
    return max(1, min(8, elements // 256))
