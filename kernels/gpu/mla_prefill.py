"""Latent attention of many new rows over paged latents: keys and values are expanded from the latents in rounds.

A round expands some thousands of keys for all heads into scratch memory, then every tile of rows meets them, with the
running softmax that it left after the round before: fp32, so that where a round ends changes no bit. Key tiles lie at
multiples of their size from the start of a sequence, and what a row does not see adds exact zeros to it: its bits
depend on its position and its keys, not on the rows beside it or on where the prefill was cut.
"""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.packing import CHUNK, Packing

ROUND, ALL = 16_384, 65_536  # keys expanded together: at most of one sequence, of all (0.5 and 2 GB for the 48B)
EXPAND = (128, 256, 64, 3, 8)  # keys, columns at most, columns of a latent, stages, warps
ROWS = 128  # a tile of queries; a multiple of CHUNK
ATTEND = (64, 3, 8)  # keys, stages, warps: 164 KB of shared memory for the 48B
SMALL_EXPAND, SMALL_ATTEND = (64, 128, 32, 2, 4), (32, 2, 8)  # where a block may have less, and for fp32


def mla_prefill(
    q: Tensor,
    pages: Tensor,
    tables: Tensor,
    lengths: Tensor,
    packing: Packing,
    kv_b: Tensor,
    value_dim: int,
    positions: Sequence[int],
) -> Tensor:
    """Causal latent attention of packed rows (model-spec §2.5), softmax scaled by (N+r)^-1/2 -> [T,h,value_dim].

    q [T,h,N+r]: the rows of sequence n are the last of its lengths[n] tokens, all of whose latents lie in the pages;
    pages [P,page,R+r] the pool of one layer, a page being a power of two of at least 16 tokens; tables [N,max_pages]
    int32; lengths [N] int32, and ``positions`` the same on the host; kv_b [h,N+V,R]. Sums are fp32; expanded keys and
    values and the weights of the values are rounded to q's dtype.
    """
    heads, out, _ = kv_b.shape
    longest = max(positions)
    keys = max(min(ROUND, ALL // len(positions), longest), 1)
    keys = triton.cdiv(keys, 128) * 128  # a multiple of every tile
    expanded = q.new_empty(len(positions), heads, keys, out)
    shared = q.new_empty(len(positions), keys, pages.shape[2] - kv_b.shape[2])
    o = q.new_empty(q.shape[0], heads, value_dim)
    state = _state(q, value_dim, several=longest > keys)
    for first in range(0, longest, keys):
        _expand(pages, tables, lengths, kv_b, first, expanded, shared)
        _attend(q, expanded, shared, lengths, packing, first, o, state)
    return o


def _state(q: Tensor, value_dim: int, several: bool) -> tuple[Tensor, Tensor]:
    """What a row takes from a round to the next: its sum of values, and (peak, mass). Unused with a single round."""
    rows = q.shape[0] if several else 1
    wide = triton.next_power_of_2(max(value_dim, 16))
    acc = torch.empty(rows, q.shape[1], wide, dtype=torch.float32, device=q.device)
    return acc, torch.empty(2, rows, q.shape[1], dtype=torch.float32, device=q.device)


def _is_small(x: Tensor) -> bool:
    if not x.is_cuda:
        return False
    device = torch.cuda.get_device_properties(x.device)
    return x.element_size() > 2 or device.shared_memory_per_block_optin < 200 * 1024  # type: ignore[attr-defined]


def _expand(
    pages: Tensor, tables: Tensor, lengths: Tensor, kv_b: Tensor, first: int, expanded: Tensor, shared: Tensor
) -> None:
    """Keys and values [n,h,keys,N+V] of the positions from ``first`` on, and their shared part [n,keys,r]. Zeros follow
    the last token up to the end of its tile; what lies further is left as it was."""
    sequences, heads, keys, out = expanded.shape
    tile, widest, inner, stages, warps = SMALL_EXPAND if _is_small(pages) else EXPAND
    columns = min(triton.next_power_of_2(max(out, 16)), widest)
    parts = triton.cdiv(out, columns)
    rank = kv_b.shape[2]
    _expand_kernel[(heads * parts + 1, keys // tile, sequences)](
        pages, tables, lengths, kv_b, expanded, shared, first, keys, pages.stride(0), tables.stride(0), *kv_b.stride(),
        TOKEN=pages.stride(1), PAGE=pages.shape[1], RANK=rank, SHARED=shared.shape[2],
        WIDE_SHARED=triton.next_power_of_2(shared.shape[2]), HEADS=heads, OUT=out, PARTS=parts, TILE=tile,
        COLUMNS=columns, INNER=min(inner, triton.next_power_of_2(max(rank, 16))), STAGES=stages, num_warps=warps,
    )  # fmt: skip


@triton.jit
def _expand_kernel(
    pages, tables, lengths, kv_b, expanded, shared, first, keys, page_stride, table_stride, w_head, w_out, w_in,
    TOKEN: tl.constexpr, PAGE: tl.constexpr, RANK: tl.constexpr, SHARED: tl.constexpr, WIDE_SHARED: tl.constexpr,
    HEADS: tl.constexpr, OUT: tl.constexpr, PARTS: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr,
    INNER: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A tile of keys times some columns of one head; the last program of a tile copies the shared part."""
    sequence = tl.program_id(2).to(tl.int64)
    length = tl.load(lengths + sequence)
    start = tl.program_id(1) * TILE
    if first + start >= length:
        return
    key = start + tl.arange(0, TILE)
    inside = first + key < length  # what lies behind the last token may be NaN
    page = tl.load(tables + sequence * table_stride + (first + key) // PAGE, mask=inside, other=0)
    latents = pages + page.to(tl.int64) * page_stride + ((first + key) % PAGE) * TOKEN
    head = tl.program_id(0) // PARTS
    if head == HEADS:
        rows = shared + (sequence * keys + key)[:, None] * SHARED
        _copy_shared(latents + RANK, inside, rows, SHARED, WIDE_SHARED)
    else:
        column = tl.program_id(0) % PARTS * COLUMNS + tl.arange(0, COLUMNS)
        rows = expanded + ((sequence * HEADS + head) * keys + key)[:, None] * OUT
        weights = kv_b + head.to(tl.int64) * w_head + column[None, :] * w_out
        _multiply(latents, inside, weights, w_in, rows, column, RANK, OUT, INNER, STAGES)


@triton.jit
def _copy_shared(tails, inside, rows, SHARED: tl.constexpr, WIDE_SHARED: tl.constexpr):
    column = tl.arange(0, WIDE_SHARED)
    there = (column < SHARED)[None, :]
    tail = tl.load(tails[:, None] + column[None, :], mask=inside[:, None] & there, other=0.0)
    tl.store(rows + column[None, :], tail, there)


@triton.jit
def _multiply(
    latents, inside, weights, w_in, rows, column, RANK: tl.constexpr, OUT: tl.constexpr, INNER: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    there = (column < OUT)[None, :]
    acc = tl.zeros([inside.shape[0], column.shape[0]], tl.float32)
    for begin in tl.range(0, RANK, INNER, num_stages=STAGES):
        inner = begin + tl.arange(0, INNER)
        a = tl.load(latents[:, None] + inner[None, :], mask=inside[:, None] & (inner < RANK)[None, :], other=0.0)
        b = tl.load(weights + inner[:, None] * w_in, mask=(inner < RANK)[:, None] & there, other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")
    tl.store(rows + column[None, :], acc.to(rows.dtype.element_ty), there)


def _attend(
    q: Tensor,
    expanded: Tensor,
    shared: Tensor,
    lengths: Tensor,
    packing: Packing,
    first: int,
    o: Tensor,
    state: tuple[Tensor, Tensor],
) -> None:
    """One round of keys for all rows; a row that sees no later round is written to ``o``."""
    heads, keys, out = expanded.shape[1:]
    nope = out - o.shape[2]
    _attend_kernel[(packing.chunks, heads)](
        q, expanded, shared, lengths, packing.starts, packing.first_chunk, packing.sequence_of, o, *state, first, keys,
        q.shape[-1] ** -0.5 * math.log2(math.e), state[1].shape[1], *q.stride()[:2], HEADS=heads, NOPE=nope,
        SHARED=shared.shape[2], VALUE=o.shape[2], CHUNK=CHUNK, ROWS=ROWS, IS_FIRST=first == 0,
        **_tile(q, nope, shared.shape[2], o.shape[2]),
    )  # fmt: skip


def _tile(q: Tensor, nope: int, shared: int, value_dim: int) -> dict[str, int]:
    keys, stages, warps = SMALL_ATTEND if _is_small(q) else ATTEND
    names = {"WIDE_NOPE": nope, "WIDE_SHARED": shared, "WIDE_VALUE": value_dim}
    widths = {name: triton.next_power_of_2(max(width, 16)) for name, width in names.items()}
    return widths | {"KEYS": keys, "STAGES": stages, "num_warps": warps}


@triton.jit
def _attend_kernel(
    q, expanded, shared, lengths, starts, first_chunk, sequence_of, o, sums, peaks, first, keys, scale, kept, q_row,
    q_head, HEADS: tl.constexpr, NOPE: tl.constexpr, WIDE_NOPE: tl.constexpr, SHARED: tl.constexpr,
    WIDE_SHARED: tl.constexpr, VALUE: tl.constexpr, WIDE_VALUE: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr,
    KEYS: tl.constexpr, STAGES: tl.constexpr, IS_FIRST: tl.constexpr,
):  # fmt: skip
    chunk = tl.num_programs(0) - 1 - tl.program_id(0)  # the last rows see most keys: they begin first
    head = tl.program_id(1)
    sequence = tl.load(sequence_of + chunk).to(tl.int64)
    chunk_within = chunk - tl.load(first_chunk + sequence)
    start = tl.load(starts + sequence)
    rows = tl.load(starts + sequence + 1) - start
    length = tl.load(lengths + sequence)
    position = length - rows + chunk_within * CHUNK  # of the tile's first row
    seen = tl.minimum(position + ROWS, length)  # keys that its last row sees
    if (chunk_within % (ROWS // CHUNK) != 0) | (first >= seen):
        return

    row = chunk_within * CHUNK + tl.arange(0, ROWS)
    there = row < rows
    row_of_all = (start + row).to(tl.int64)
    q_rows = q + row_of_all[:, None] * q_row + head * q_head
    nope, tail, value = tl.arange(0, WIDE_NOPE), tl.arange(0, WIDE_SHARED), tl.arange(0, WIDE_VALUE)
    q_nope = tl.load(q_rows + nope[None, :], mask=there[:, None] & (nope < NOPE)[None, :], other=0.0)
    q_tail = tl.load(q_rows + NOPE + tail[None, :], mask=there[:, None] & (tail < SHARED)[None, :], other=0.0)

    place = row_of_all * HEADS + head
    if IS_FIRST:
        acc = tl.zeros([ROWS, WIDE_VALUE], tl.float32)
        peak = tl.full([ROWS], float("-inf"), tl.float32)
        mass = tl.zeros([ROWS], tl.float32)
    else:
        acc = tl.load(sums + place[:, None] * WIDE_VALUE + value[None, :], mask=there[:, None], other=0.0)
        peak = tl.load(peaks + place, mask=there, other=0.0)
        mass = tl.load(peaks + kept * HEADS + place, mask=there, other=1.0)

    stop = tl.minimum(seen - first, keys)
    whole = tl.maximum(tl.minimum(position + 1 - first, stop), 0) // KEYS * KEYS  # up to here every row sees every key
    k = expanded + (sequence * HEADS + head) * keys * (NOPE + VALUE)
    k_tail = shared + sequence * keys * SHARED
    hidden = position - first + tl.arange(0, ROWS)  # a row sees the keys up to this one of the round
    acc, peak, mass = _walk(
        acc, peak, mass, q_nope, q_tail, k, k_tail, hidden, 0, whole, scale, NOPE, WIDE_NOPE, SHARED, WIDE_SHARED,
        VALUE, WIDE_VALUE, KEYS, STAGES, False,
    )  # fmt: skip
    acc, peak, mass = _walk(
        acc, peak, mass, q_nope, q_tail, k, k_tail, hidden, whole, stop, scale, NOPE, WIDE_NOPE, SHARED, WIDE_SHARED,
        VALUE, WIDE_VALUE, KEYS, STAGES, True,
    )  # fmt: skip

    if seen <= first + keys:
        done = (acc / mass[:, None]).to(o.dtype.element_ty)
        tl.store(o + place[:, None] * VALUE + value[None, :], done, mask=there[:, None] & (value < VALUE)[None, :])
    else:
        tl.store(sums + place[:, None] * WIDE_VALUE + value[None, :], acc, mask=there[:, None])
        tl.store(peaks + place, peak, mask=there)
        tl.store(peaks + kept * HEADS + place, mass, mask=there)


@triton.jit
def _walk(
    acc, peak, mass, q_nope, q_tail, k, k_tail, last, begin, stop, scale, NOPE: tl.constexpr, WIDE_NOPE: tl.constexpr,
    SHARED: tl.constexpr, WIDE_SHARED: tl.constexpr, VALUE: tl.constexpr, WIDE_VALUE: tl.constexpr, KEYS: tl.constexpr,
    STAGES: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Key tiles from ``begin`` to ``stop``. Both forms must give a row that sees a whole tile the same bits: products
    that are added to something are written as fma, not left to the compiler's choice."""
    key = tl.arange(0, KEYS)
    nope, tail, value = tl.arange(0, WIDE_NOPE), tl.arange(0, WIDE_SHARED), tl.arange(0, WIDE_VALUE)
    for start in tl.range(begin, stop, KEYS, num_stages=STAGES):
        k_rows = k + start * (NOPE + VALUE) + key[:, None] * (NOPE + VALUE)
        k_nope = _columns(k_rows, nope, NOPE, WIDE_NOPE)
        k_shared = _columns(k_tail + start * SHARED + key[:, None] * SHARED, tail, SHARED, WIDE_SHARED)
        v = _columns(k_rows + NOPE, value, VALUE, WIDE_VALUE)
        scores = tl.dot(q_nope, tl.trans(k_nope), input_precision="ieee")
        scores = tl.dot(q_tail, tl.trans(k_shared), scores, input_precision="ieee")
        if MASKED:
            scores = tl.where(start + key[None, :] <= last[:, None], scores, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, 1))  # finite: every row sees the sequence's first key
        p = tl.exp2(tl.fma(scores, scale, -(new_peak * scale)[:, None]))
        fade = tl.exp2((peak - new_peak) * scale)
        mass = tl.fma(mass, fade, tl.sum(p, 1))
        acc = tl.dot(p.to(v.dtype), v, acc * fade[:, None], input_precision="ieee")
        peak = new_peak
    return acc, peak, mass


@triton.jit
def _columns(rows, column, WIDTH: tl.constexpr, WIDE: tl.constexpr):
    if WIDTH == WIDE:
        return tl.load(rows + column[None, :])
    else:
        return tl.load(rows + column[None, :], mask=(column < WIDTH)[None, :], other=0.0)
