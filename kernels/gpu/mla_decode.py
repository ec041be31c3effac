"""One new row of latent attention for each of many sequences over paged latents: the absorbed form, split over SMs.

A program reads a split of one sequence's latents once and serves up to 32 heads with it: scores and values alike come
from the tile in shared memory. Keys lie on the M side of both products (a transposed softmax), for the tensor cores of
compute capability 9.0 take 64 rows at least and 32 heads are not 64. How a sequence is split depends on its own length
only, so its bits are the same in any batch.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernels.gpu.early import early, follow, launch
from kernels.gpu.packing import Packing

SPLITS = 132  # at most, of one sequence: one for each SM of an H200
STEP = 64  # tokens; a split is a multiple of it
FEW = 32  # splits of a sequence that is not long, until they reach the USUAL length: more serve a single sequence,
SHORTEST, USUAL = 128, 512  # fewer serve a batch; tokens. The partial sums of a split are the bytes of 57 latents
HOPPER = True  # the reading kernel of mla_decode_hopper.py where it suits
KEYS, STAGES, WARPS = 64, 2, 4  # of the reading kernel here: 184 KB of shared memory at the size of the 48B
AHEAD = 1  # tiles, of which the lines are asked into the L2 cache before they are copied to shared memory
SMALL, WIDEST = (16, 2, 4), (16, 1, 8)  # the same where a block may have less than that; for fp32
HEADS = 32  # heads that one program serves
TOGETHER = 64  # splits that the combining kernel adds in one round: the same for all lengths, it is an order of sums


def mla_decode(q: Tensor, pages: Tensor, tables: Tensor, lengths: Tensor, kv_b: Tensor, value_dim: int) -> Tensor:
    """Latent attention of one row a sequence (model-spec §2.5): ``softmax(q·k * (N+r)^-1/2)·v`` -> [B,h,value_dim].

    q [B,h,N+r]; pages [P,page,R+r] the pool of one layer, a page being a power of two of at least 16 tokens; tables
    [B,max_pages] int32 the pages of each sequence in order; lengths [B] int32 with the new row, whose latent is
    written already, 0 for an idle row, which gives zeros; kv_b [h,N+V,R]. Sums are fp32; the absorbed query, the
    weights of the values and the values before their expansion are rounded to q's dtype.
    """
    nope = kv_b.shape[1] - value_dim
    query = project(q[..., :nope], kv_b[:, :nope].transpose(1, 2))
    read = _read(query, q[..., nope:], pages, tables, lengths, q.shape[-1] ** -0.5)
    return project(read, kv_b[:, nope:])


def mla_few(
    q: Tensor, pages: Tensor, tables: Tensor, lengths: Tensor, packing: Packing, kv_b: Tensor, value_dim: int
) -> Tensor:
    """The last few rows of each sequence, q [T,h,N+r] packed, bit for bit as if they had been decoded one by one.

    Rows of one sequence meet its latents in the L2 cache, not in shared memory: cheaper than expanding keys up to some
    tens of rows.
    """
    row = torch.arange(q.shape[0], device=q.device, dtype=torch.int32)
    sequence = torch.searchsorted(packing.starts[1:], row, right=True)
    limits = lengths[sequence] - packing.starts[1:][sequence] + row + 1
    return mla_decode(q, pages, tables[sequence], limits, kv_b, value_dim)


def project(x: Tensor, weight: Tensor) -> Tensor:
    """x [B,h,K] times weight [h,M,K] of any strides, head by head -> [B,h,M]; bits of a row do not depend on B."""
    batch, heads, wide = x.shape
    out = torch.empty(batch, heads, weight.shape[1], dtype=x.dtype, device=x.device)
    columns = min(max(triton.next_power_of_2(weight.shape[1]), 16), 32)
    grid = (triton.cdiv(weight.shape[1], columns), heads, triton.cdiv(batch, 16))
    inner = min(max(triton.next_power_of_2(wide), 16), 128)
    sizes = batch, *x.stride()[:2], *weight.stride(), heads
    overlap = early(x.device)
    _project[grid](
        x, weight, out, *sizes, WIDE=wide, OUT=weight.shape[1], COLUMNS=columns, INNER=inner, EARLY=overlap,
        num_warps=4, **launch(overlap),
    )  # fmt: skip
    return out


@triton.jit
def _project(
    x, weight, out, batch, x_row, x_head, w_head, w_out, w_in, heads, WIDE: tl.constexpr, OUT: tl.constexpr,
    COLUMNS: tl.constexpr, INNER: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(2) * 16 + tl.arange(0, 16)
    mine, there = (row < batch)[:, None], (column < OUT)[None, :]
    rows = x + head * x_head + row.to(tl.int64)[:, None] * x_row
    columns = weight + head * w_head + column[None, :] * w_out
    inner, held = tl.arange(0, INNER), ()
    if EARLY:
        gdc_launch_dependents()
    for start in tl.static_range(0, WIDE, INNER):
        held = held + (
            tl.load(columns + (start + inner)[:, None] * w_in, mask=there & (start + inner < WIDE)[:, None], other=0.0),
        )
    if EARLY:
        gdc_wait()
    acc = tl.zeros([16, COLUMNS], tl.float32)
    for start in tl.static_range(0, WIDE, INNER):
        a = tl.load(rows + (start + inner)[None, :], mask=mine & (start + inner < WIDE)[None, :], other=0.0)
        acc = tl.dot(a, held[start // INNER], acc, input_precision="ieee")
    place = (row.to(tl.int64)[:, None] * heads + head) * OUT + column[None, :]
    tl.store(out + place, acc.to(out.dtype.element_ty), mask=mine & there)


def _read(query: Tensor, shared: Tensor, pages: Tensor, tables: Tensor, lengths: Tensor, scale: float) -> Tensor:
    """Softmax-weighted mean of the latents for each absorbed query -> [B,h,R] in query's dtype."""
    batch, heads, rank = query.shape
    head = min(max(triton.next_power_of_2(heads), 16), HEADS)
    wide, blocks = triton.next_power_of_2(max(rank, 16)), triton.cdiv(heads, head)
    room = tables.shape[1] * pages.shape[1]
    splits = min(SPLITS, triton.cdiv(room, SHORTEST), max(FEW, triton.cdiv(room, USUAL)))
    parts = query.new_empty(batch, splits, blocks, wide, head, dtype=torch.float32)
    peaks, masses = query.new_empty(2, batch, splits, blocks, head, dtype=torch.float32)
    rule = {"SPLITS": SPLITS, "STEP": STEP, "FEW": FEW, "SHORTEST": SHORTEST, "USUAL": USUAL, "HEADS": head}
    (kernel, tile), overlap = _reading(pages, rank, shared.shape[2]), early(query.device)
    kernel[(batch, splits, blocks)](
        query, shared, pages, tables, lengths, parts, peaks, masses, scale * math.log2(math.e), splits, heads,
        *shared.stride()[:2], pages.stride(0), tables.stride(0), TOKEN=pages.stride(1), RANK=rank,
        SHARED=shared.shape[2], PAGE=pages.shape[1], EARLY=overlap, **tile, **rule, **launch(overlap),
    )  # fmt: skip
    read = torch.empty_like(query)
    slice_ = min(wide, 128 // head)
    _combine[(triton.cdiv(rank, slice_), batch, blocks)](
        parts, peaks, masses, lengths, read, splits, heads, RANK=rank, WIDE=wide, SLICE=slice_, TOGETHER=TOGETHER,
        **rule, EARLY=overlap, num_warps=4, **launch(overlap),
    )  # fmt: skip
    return read


def _reading(pages: Tensor, rank: int, shared: int) -> tuple[Any, dict[str, int]]:
    """The reading kernel and its tile, by what shared memory holds. A tile lies in one page."""
    if _suits_hopper(pages, rank, shared):
        from kernels.gpu import mla_decode_hopper as hopper

        ahead = hopper.AHEAD if pages.stride(1) == rank + shared else 0  # no lines of other layers
        return hopper.read_split, {"KEYS": hopper.KEYS, "AHEAD": ahead, "num_warps": hopper.WARPS}
    keys, stages, warps = KEYS, STAGES, WARPS
    if pages.is_cuda and pages.element_size() > 2:
        keys, stages, warps = WIDEST
    elif pages.is_cuda and rank > 128:
        device = torch.cuda.get_device_properties(pages.device)
        if device.shared_memory_per_block_optin < 200 * 1024:  # type: ignore[attr-defined]
            keys, stages, warps = SMALL
    widths = {"WIDE": triton.next_power_of_2(max(rank, 16)), "WIDE_SHARED": triton.next_power_of_2(max(shared, 16))}
    ahead = AHEAD if pages.is_cuda else 0
    tile = {"KEYS": min(keys, pages.shape[1]), "STAGES": stages, "AHEAD": ahead, "num_warps": warps}
    return _read_split, widths | tile


def _suits_hopper(pages: Tensor, rank: int, shared: int) -> bool:
    """HOPPER, and 16 bits, whole tiles of 64 keys, widths that are powers of two, rows on 16 bytes."""
    if not HOPPER or not pages.is_cuda or pages.element_size() != 2:
        return False
    if torch.cuda.get_device_capability(pages.device)[0] != 9 or pages.shape[1] < 64:
        return False
    aligned = all(n % 16 == 0 for n in (pages.data_ptr(), *pages.stride()[:2]))
    return aligned and rank in (64, 128, 256, 512) and shared == 64


@triton.jit
def _split_length(
    length, SPLITS: tl.constexpr, STEP: tl.constexpr, FEW: tl.constexpr, SHORTEST: tl.constexpr, USUAL: tl.constexpr
):
    steps = (length + STEP - 1) // STEP
    usual = tl.minimum((steps + FEW - 1) // FEW * STEP, USUAL)
    return tl.maximum(tl.maximum((steps + SPLITS - 1) // SPLITS * STEP, usual), SHORTEST)


@triton.jit
def _read_split(
    query, shared, pages, tables, lengths, parts, peaks, masses, scale, splits, heads, shared_row, shared_head,
    page_stride, table_stride, TOKEN: tl.constexpr, RANK: tl.constexpr, WIDE: tl.constexpr, SHARED: tl.constexpr,
    WIDE_SHARED: tl.constexpr, PAGE: tl.constexpr, KEYS: tl.constexpr, STAGES: tl.constexpr, AHEAD: tl.constexpr,
    SPLITS: tl.constexpr, STEP: tl.constexpr, FEW: tl.constexpr, SHORTEST: tl.constexpr, USUAL: tl.constexpr,
    HEADS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Keys x heads: the scores are [KEYS,HEADS], the values [WIDE,HEADS], WIDE = R up to a power of two."""
    sequence, split, block = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    follow(EARLY)
    length = tl.load(lengths + sequence)
    piece = _split_length(length, SPLITS, STEP, FEW, SHORTEST, USUAL)
    first = split * piece
    if first >= length:
        return
    stop = tl.minimum(first + piece, length)

    column, column_shared = tl.arange(0, WIDE), tl.arange(0, WIDE_SHARED)
    head = block * HEADS + tl.arange(0, HEADS)
    there, there_shared = column < RANK, column_shared < SHARED
    q = tl.load(
        query + (sequence * heads + head)[:, None] * RANK + column[None, :],
        mask=(head < heads)[:, None] & there[None, :], other=0.0,
    )  # fmt: skip
    q_shared = tl.load(
        shared + sequence * shared_row + head[:, None] * shared_head + column_shared[None, :],
        mask=(head < heads)[:, None] & there_shared[None, :], other=0.0,
    )  # fmt: skip

    peak = tl.full([HEADS], float("-inf"), tl.float32)
    mass = tl.zeros([KEYS, HEADS], tl.float32)  # a sum for each place in a tile: added up once, at the end
    acc = tl.zeros([WIDE, HEADS], tl.float32)
    key = tl.arange(0, KEYS)
    table = tables + sequence * table_stride
    # A page is looked up a round before it is needed, else every tile waits for two reads in a row.
    page = tl.load(table + first // PAGE)
    for tiles in tl.static_range(1, AHEAD):
        soon = first + tiles * KEYS
        _into_l2(pages, _page_at(table, soon, stop, PAGE), page_stride, soon, stop, TOKEN, PAGE, KEYS, RANK + SHARED)
    later_page = _page_at(table, first + AHEAD * KEYS, stop, PAGE)
    for start in tl.range(first, stop, KEYS, num_stages=STAGES):
        if AHEAD:
            later = start + AHEAD * KEYS
            _into_l2(pages, later_page, page_stride, later, stop, TOKEN, PAGE, KEYS, RANK + SHARED)
            later_page = _page_at(table, later + KEYS, stop, PAGE)
        tile = pages + page.to(tl.int64) * page_stride + (start % PAGE) * TOKEN
        page = _page_at(table, start + KEYS, stop, PAGE)
        inside = (start + key < stop)[:, None]  # what lies behind the last token may be NaN
        rows = tile + key[:, None] * TOKEN
        latents = tl.load(rows + column[None, :], mask=inside & there[None, :], other=0.0)
        tails = tl.load(rows + RANK + column_shared[None, :], mask=inside & there_shared[None, :], other=0.0)
        scores = tl.dot(latents, tl.trans(q), input_precision="ieee")
        scores = tl.dot(tails, tl.trans(q_shared), scores, input_precision="ieee")
        scores = tl.where(inside, scores * scale, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, 0))  # finite: a tile has a key
        p = tl.exp2(scores - new_peak[None, :])
        fade = tl.exp2(peak - new_peak)
        mass = mass * fade[None, :] + p
        acc = tl.dot(tl.trans(latents), p.to(latents.dtype), acc * fade[None, :], input_precision="ieee")
        peak = new_peak

    part = (sequence * splits + split) * tl.num_programs(2) + block
    tl.store(parts + part * (WIDE * HEADS) + column[:, None] * HEADS + tl.arange(0, HEADS)[None, :], acc)
    tl.store(peaks + part * HEADS + tl.arange(0, HEADS), peak)
    tl.store(masses + part * HEADS + tl.arange(0, HEADS), tl.sum(mass, 0))


@triton.jit
def _page_at(table, token, stop, PAGE: tl.constexpr):
    return tl.load(table + token // PAGE, mask=token < stop, other=0)


@triton.jit
def _into_l2(
    pages, page, page_stride, start, stop, TOKEN: tl.constexpr, PAGE: tl.constexpr, KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Asks for the lines that hold a tile. Triton's pipeline has loads under way as far as shared memory goes, and that
    is one tile short of the memory's latency."""
    LINE: tl.constexpr = 128 // (pages.dtype.element_ty.primitive_bitwidth // 8)
    key = tl.arange(0, KEYS)[:, None]
    line = (tl.arange(0, triton.next_power_of_2(triton.cdiv(WIDTH, LINE))) * LINE)[None, :]
    tile = pages + page.to(tl.int64) * page_stride + (start % PAGE) * TOKEN
    mine = (start + key < stop) & (line < WIDTH)
    tl.inline_asm_elementwise(
        "{ .reg .pred p; setp.ne.b32 p, $2, 0; @p prefetch.global.L2 [$1]; mov.b32 $0, 0; }",
        "=r,l,r",
        [tile + key * TOKEN + line, mine.to(tl.int32)],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def _combine(
    parts, peaks, masses, lengths, read, splits, heads, RANK: tl.constexpr, WIDE: tl.constexpr, SLICE: tl.constexpr,
    TOGETHER: tl.constexpr, SPLITS: tl.constexpr, STEP: tl.constexpr, FEW: tl.constexpr, SHORTEST: tl.constexpr,
    USUAL: tl.constexpr, HEADS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Adds the splits of a sequence in order, TOGETHER at a time, for SLICE columns of R and one block of heads."""
    sequence, block = tl.program_id(1).to(tl.int64), tl.program_id(2)
    follow(EARLY)
    length = tl.load(lengths + sequence)
    used = tl.cdiv(length, _split_length(length, SPLITS, STEP, FEW, SHORTEST, USUAL))
    head, column = tl.arange(0, HEADS), tl.program_id(0) * SLICE + tl.arange(0, SLICE)
    peak = tl.full([HEADS], float("-inf"), tl.float32)
    mass, acc = tl.zeros([HEADS], tl.float32), tl.zeros([SLICE, HEADS], tl.float32)
    for first in range(0, used, TOGETHER):
        split = first + tl.arange(0, TOGETHER)
        part = (sequence * splits + split) * tl.num_programs(2) + block
        inside = (split < used)[:, None]
        own_peak = tl.load(peaks + part[:, None] * HEADS + head[None, :], mask=inside, other=float("-inf"))
        own_mass = tl.load(masses + part[:, None] * HEADS + head[None, :], mask=inside, other=0.0)
        place = (part * WIDE)[:, None, None] * HEADS + column[None, :, None] * HEADS + head[None, None, :]
        values = tl.load(parts + place, mask=inside[:, :, None] & (column < RANK)[None, :, None], other=0.0)
        new_peak = tl.maximum(peak, tl.max(own_peak, 0))
        share, fade = tl.exp2(own_peak - new_peak[None, :]), tl.exp2(peak - new_peak)
        mass = mass * fade + tl.sum(own_mass * share, 0)
        acc = acc * fade[None, :] + tl.sum(values * share[:, None, :], 0)
        peak = new_peak
    acc = acc / tl.where(mass > 0, mass, 1.0)[None, :]  # an idle row has no split: zeros
    place = (sequence * heads + block * HEADS + head)[None, :] * RANK + column[:, None]
    mine = (block * HEADS + head < heads)[None, :] & (column < RANK)[:, None]
    tl.store(read + place, acc.to(read.dtype.element_ty), mask=mine)
