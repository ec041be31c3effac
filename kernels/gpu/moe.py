"""The mixture of experts (model-spec §2.6): the choice, and what the chosen compute.

Two regimes, by the number of rows alone. Few rows read weights and do next to nothing with them: ``moe_pairs``, a
program for some outputs of one row and one of its experts, on the ordinary cores. More rows are sorted by expert on the
device and multiplied tile by tile on the tensor cores: ``moe_grouped``. Within a regime a row's bits do not depend on
the rows beside it: an output is one sum in steps along D or I, whatever the tile; between the two regimes they differ.
Tuned for compute capability 9.0.
"""

from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.gpu.early import early, launch
from kernels.gpu.rows import PIECE, piece

DESCRIBE = True  # from 9.0 on: tiles of weights come by the GPU's copy engine
HELD = 20  # pieces of 16 bytes that a thread of the kernels for few rows holds, at most
WARPS = 4  # of theirs
REGISTERS = 128  # of a thread of w13's: 16 warps of an SM
FEW_ROWS = 8  # up to here rows that share an expert read it twice, which costs less than sorting
SLICE = 256  # columns of x whose products are summed before the slices are: the router's order of summation
FEW_ROUTED = 256  # rows; up to here a slice has its own program


class Tiles(NamedTuple):
    columns: int  # outputs of a tile
    depth: int  # columns of a step of the sum
    warps: int
    stages: int


# By rows of a tile. A column of hidden is a row of w1 and one of w3.
UP = {16: Tiles(64, 64, 4, 4), 64: Tiles(64, 64, 4, 4), 128: Tiles(128, 64, 8, 4)}
DOWN = {16: Tiles(128, 64, 4, 4), 64: Tiles(128, 64, 4, 4), 128: Tiles(256, 64, 8, 3)}


def tile_rows(pairs: int, experts: int) -> int:
    """Rows of a tile: 16 or 64 while that holds most experts' shares. 128 are computed as 64 where these suffice."""
    return 16 if pairs <= 8 * experts else 64 if pairs <= 48 * experts else 128


def route(
    x: Tensor, gate_weight: Tensor, bias: Tensor, top_k: int, scale: float, renormalize: bool, shared: int = 0
) -> tuple[Tensor, Tensor]:
    """Chooses top_k experts by ``sigmoid(x·Wᵀ) + bias``, of equal ones the first; weighs them by the sigmoid alone.

    x [T,D], gate_weight [E,D] of one dtype, bias [E] -> (indices [T,k] int32, weights [T,k] fp32), best first. Products
    are summed in fp32: of 256 columns at a time, then these sums in their order. A row's bits do not depend on T.
    shared: so many experts more, numbered from E on, are chosen last by every row, with weight 1: k counts them.
    """
    (rows, width), experts = x.shape, gate_weight.shape[0]
    slices = triton.cdiv(width, SLICE)
    few = rows <= FEW_ROUTED
    each = 1 if few else slices
    experts_tile, rows_tile, warps = (64, 16, 4) if few else (128, 64, 8)
    logits = torch.empty(slices // each, rows, experts, dtype=torch.float32, device=x.device)
    _logits[triton.cdiv(experts, experts_tile), triton.cdiv(rows, rows_tile), slices // each](
        x, gate_weight, logits, rows, x.stride(0), width, experts, each, SLICE, experts_tile, rows_tile,
        _step(64, x), num_warps=warps, num_stages=4,
    )  # fmt: skip
    return choose(logits, bias, top_k, scale, renormalize, shared)


def choose(
    logits: Tensor, bias: Tensor, top_k: int, scale: float, renormalize: bool, shared: int = 0
) -> tuple[Tensor, Tensor]:
    """The choice of ``route`` by logits [S,T,E] fp32, the parts of a sum."""
    parts, rows, experts = logits.shape
    indices = torch.empty(rows, top_k + shared, dtype=torch.int32, device=logits.device)
    weights = torch.empty(rows, top_k + shared, dtype=torch.float32, device=logits.device)
    overlap = early(logits.device)
    _select[(rows,)](
        logits, bias, indices, weights, rows, scale, experts, triton.next_power_of_2(experts), top_k,
        shared, triton.next_power_of_2(top_k + shared), parts, renormalize, overlap, num_warps=1, **launch(overlap),
    )  # fmt: skip
    return indices, weights


def moe(
    x: Tensor, indices: Tensor, weights: Tensor, w13: Tensor, w2: Tensor, out: Tensor | None = None, shared: int = 0
) -> Tensor:
    """``y_t = Σ_e weight_te · W2_e( SiLU(W1_e x_t) ⊙ W3_e x_t )``, the experts of a token in the order chosen, in fp32.

    x [T,D], indices [T,k] int32 in 0..E-1, weights [T,k] fp32; w13 [E,2I,D] (w1's rows, then w3's), w2 [E,D,I] -> [T,D]
    in x's dtype. out [T,D]: the result is added to it, in place, and it is returned. shared: the last ``shared`` of a
    row's choice are the last experts, as ``route`` says.
    """
    if x.shape[0] <= FEW_ROWS:
        return moe_pairs(x, indices, weights, w13, w2, out, shared)
    return moe_grouped(x, indices, weights, w13, w2, out)


def moe_pairs(
    x: Tensor, indices: Tensor, weights: Tensor, w13: Tensor, w2: Tensor, out: Tensor | None = None, shared: int = 0
) -> Tensor:
    """`moe` for few rows, in two launches. Rows that share an expert each read it.

    The rows are made contiguous: on their alignment depends who adds what, so the bits.
    """
    (rows, top_k), (experts, width, inner) = indices.shape, w2.shape
    y = torch.empty_like(x) if out is None else out
    hidden = torch.empty(rows * top_k, inner, dtype=x.dtype, device=x.device)
    depth, overlap = PIECE // x.element_size(), early(x.device)
    up, down = triton.cdiv(width, depth), top_k * triton.cdiv(inner, depth)
    _pair_up[(triton.cdiv(inner, WARPS), rows * top_k)](
        x.contiguous(), indices, w13, hidden, top_k, shared, experts, width, inner, depth, min(up, HELD // 4), WARPS,
        overlap, num_warps=WARPS, maxnreg=REGISTERS, **launch(overlap),
    )  # fmt: skip
    _pair_down[(triton.cdiv(width, WARPS), rows)](
        hidden, indices, weights, w2, y, y.stride(0), top_k, width, inner, out is not None, depth, min(down, HELD),
        WARPS, overlap, num_warps=WARPS, **launch(overlap),
    )  # fmt: skip
    return y


def moe_grouped(
    x: Tensor, indices: Tensor, weights: Tensor, w13: Tensor, w2: Tensor, out: Tensor | None = None, tile: int = 0
) -> Tensor:
    """`moe` for many rows: (row, expert) pairs sorted by expert, tiles of them through w13, then w2, then summed."""
    (rows, top_k), (experts, width, inner) = indices.shape, w2.shape
    pairs = rows * top_k
    tile = tile or tile_rows(pairs, experts)
    order, tiles = _sorted(indices, experts, tile)
    hidden = torch.empty(pairs, inner, dtype=x.dtype, device=x.device)
    up = _fitting(tile, UP[tile], 2, x)
    matrix, described = _weights(w13, up)
    _up[(len(tiles) * triton.cdiv(inner, up.columns),)](
        x, order, tiles, matrix, hidden, x.stride(0), top_k, experts, width, inner, tile, up.columns, up.depth,
        described, num_warps=up.warps, num_stages=up.stages,
    )  # fmt: skip
    parts = torch.empty(pairs, width, dtype=x.dtype, device=x.device)
    down = _fitting(tile, DOWN[tile], 1, x)
    matrix, described = _weights(w2, down)
    _down[(len(tiles) * triton.cdiv(width, down.columns),)](
        hidden, order, tiles, weights, matrix, parts, experts, width, inner, tile, down.columns, down.depth,
        described, num_warps=down.warps, num_stages=down.stages,
    )  # fmt: skip
    y = torch.empty_like(x) if out is None else out
    _sum[(rows, triton.cdiv(width, 1024))](parts, y, y.stride(0), top_k, width, out is not None, 1024, num_warps=4)
    return y


def _sorted(indices: Tensor, experts: int, tile: int) -> tuple[Tensor, Tensor]:
    """order [T·k]: pairs t·k+j by expert, then by number; tiles [n,3]: of every tile its expert, -1 where there is no
    tile, its first place in order, and the end of the expert's places. Both int32."""
    pairs = indices.numel()
    order = torch.empty(pairs, dtype=torch.int32, device=indices.device)
    starts = torch.empty(experts + 1, dtype=torch.int32, device=indices.device)
    _sort[(experts,)](indices, order, starts, pairs, experts, 4096, num_warps=8)
    # every expert with pairs may leave one tile partly empty: the host cannot know more without waiting
    tiles = torch.empty(pairs // tile + min(pairs, experts), 3, dtype=torch.int32, device=indices.device)
    _lay_tiles[(triton.cdiv(len(tiles), 64),)](
        starts, tiles, len(tiles), experts, triton.next_power_of_2(experts), tile, 64, num_warps=4
    )
    return order, tiles


def _fitting(rows: int, tiles: Tiles, matrices: int, like: Tensor) -> Tiles:
    """The same with as many stages as the shared memory holds."""
    tiles = tiles._replace(depth=_step(tiles.depth, like))
    stage = (rows + matrices * tiles.columns) * tiles.depth * like.element_size()
    return tiles._replace(stages=max(2, min(tiles.stages, _shared_memory(like.device) // stage)))


def _weights(w: Tensor, tiles: Tiles) -> tuple[Tensor | TensorDescriptor, bool]:
    """All experts' rows as one matrix; described, where the GPU has an engine that copies tiles of such a matrix.

    Not in fp32, whose products are taken without tensor cores.
    """
    rows = w.flatten(0, 1)
    fits = w.element_size() == 2 and w.shape[-1] % 8 == 0 and w.data_ptr() % 16 == 0
    if DESCRIBE and fits and (not w.is_cuda or _capability(w.device) >= 9):
        return TensorDescriptor.from_tensor(rows, [tiles.columns, tiles.depth]), True
    return rows, False


@cache
def _capability(device: torch.device) -> int:
    return torch.cuda.get_device_capability(device)[0]


def _step(depth: int, like: Tensor) -> int:
    """Columns of a step, as many bytes of fp32 as of 16 bits."""
    return depth * 2 // max(2, like.element_size())


@cache
def _shared_memory(device: torch.device) -> int:
    """Bytes that one program may use; the interpreter has no limit."""
    if device.type != "cuda":
        return 2**20
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin  # type: ignore[attr-defined]


@triton.jit
def _columns(lines, d, D: tl.constexpr, DEPTH: tl.constexpr, inside=None):
    """Columns d of the rows that begin at lines; zeros from D on and where a row is not inside."""
    if inside is None and D % DEPTH == 0:
        return tl.load(lines[:, None] + d[None, :])
    mask = d[None, :] < D
    if inside is not None:
        mask = inside[:, None] if D % DEPTH == 0 else inside[:, None] & mask
    return tl.load(lines[:, None] + d[None, :], mask=mask, other=0.0)


@triton.jit
def _swiglu(gate, up):
    return gate / (1 + tl.exp(-gate)) * up


@triton.jit
def _logits(
    x, weight, logits, rows, stride, D: tl.constexpr, E: tl.constexpr, SLICES: tl.constexpr, SLICE: tl.constexpr,
    EXPERTS: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Some slices' share of x·Wᵀ. The experts stand first in the product: a tensor core wants 64 rows there, of these
    there are enough."""
    experts = tl.program_id(0) * EXPERTS + tl.arange(0, EXPERTS)
    tokens = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    first = tl.program_id(2) * SLICES
    weights = weight + tl.minimum(experts, E - 1) * D
    inputs = x + tl.minimum(tokens, rows - 1).to(tl.int64) * stride
    total = tl.zeros([EXPERTS, ROWS], dtype=tl.float32)
    for s in range(first, first + SLICES):
        part = tl.zeros([EXPERTS, ROWS], dtype=tl.float32)
        for at in range(0, SLICE, DEPTH):
            d = s * SLICE + at + tl.arange(0, DEPTH)
            a, b = _columns(weights, d, D, SLICE), _columns(inputs, d, D, SLICE)
            part = tl.dot(a, tl.trans(b), part, input_precision="ieee")
        total += part
    place = (tl.program_id(2) * rows + tokens).to(tl.int64)[None, :] * E + experts[:, None]
    tl.store(logits + place, total, mask=(tokens < rows)[None, :] & (experts < E)[:, None])


@triton.jit
def _select(
    logits, bias, indices, weights, rows, scale, E: tl.constexpr, WIDE: tl.constexpr, TOP: tl.constexpr,
    SHARED: tl.constexpr, TOPS: tl.constexpr, SLICES: tl.constexpr, RENORMALIZE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """A row's choice, by one warp: the best, then the best of the others."""
    token = tl.program_id(0)
    expert, place = tl.arange(0, WIDE), tl.arange(0, TOPS)
    bonus = tl.load(bias + expert, mask=expert < E, other=0.0).to(tl.float32)
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    total = tl.zeros([WIDE], dtype=tl.float32)
    for s in tl.static_range(SLICES):
        total += tl.load(logits + (s * rows + token).to(tl.int64) * E + expert, mask=expert < E, other=0.0)
    scores = 1 / (1 + tl.exp(-total))
    value = scores + bonus
    # NaN is never chosen before a number, and an expert that does not exist never at all: its weights would be read
    value = tl.where((expert < E) & (value == value), value, float("-inf"))
    order = value.to(tl.int32, bitcast=True)  # integers in the order of the numbers: a warp compares these at once
    order = order ^ ((order >> 31) & 0x7FFFFFFF)
    chosen, share = tl.zeros([TOPS], dtype=tl.int32), tl.zeros([TOPS], dtype=tl.int32)
    for j in tl.static_range(TOP):
        best = tl.min(tl.where(order == tl.max(order), expert, WIDE))
        chosen = tl.where(place == j, best, chosen)
        share = tl.where(place == j, tl.sum(tl.where(expert == best, scores.to(tl.int32, bitcast=True), 0)), share)
        order = tl.where(expert == best, -(2**31), order)
    share = share.to(tl.float32, bitcast=True)
    if RENORMALIZE:
        share = share / (tl.sum(share) + 1e-20)
    chosen, share = tl.where(place < TOP, chosen, E + place - TOP), tl.where(place < TOP, share * scale, 1.0)
    tl.store(indices + token * (TOP + SHARED) + place, chosen, mask=place < TOP + SHARED)
    tl.store(weights + token * (TOP + SHARED) + place, share, mask=place < TOP + SHARED)


@triton.jit
def _pair_up(
    x, indices, w13, hidden, TOP: tl.constexpr, SHARED: tl.constexpr, E: tl.constexpr, D: tl.constexpr,
    INNER: tl.constexpr, DEPTH: tl.constexpr, STEPS: tl.constexpr, WARPS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Some of a pair's hidden row, one to a warp. A thread adds every 32nd piece of 16 bytes, then the threads add in
    pairs. Shared experts come first: nobody waits for the choice to ask for their weights."""
    place = TOP - 1 - tl.program_id(1) % TOP
    pair, known = tl.program_id(1) // TOP * TOP + place, place >= TOP - SHARED
    number = tl.program_id(0) * WARPS + tl.arange(0, WARPS)
    if EARLY:
        if place < TOP - SHARED:
            gdc_wait()
    expert = tl.load(indices + pair, mask=place < TOP - SHARED, other=0)
    expert = tl.where(known, E - TOP + place, expert).to(tl.int64)
    gates = w13 + expert * (2 * INNER * D) + tl.minimum(number, INNER - 1)[:, None] * D
    ups, cells = gates + INNER * D, x + (pair // TOP) * D + 0 * number[:, None]
    held = ()
    for step in tl.static_range(STEPS):
        held = held + (piece(gates, step * DEPTH, D, DEPTH), piece(ups, step * DEPTH, D, DEPTH))
    if EARLY:
        if known:
            gdc_wait()
        gdc_launch_dependents()  # after the wait: so the next launch may read the choice before its own
    gate, up = tl.zeros([WARPS, DEPTH], dtype=tl.float32), tl.zeros([WARPS, DEPTH], dtype=tl.float32)
    for step in tl.static_range(STEPS):
        value = piece(cells, step * DEPTH, D, DEPTH).to(tl.float32)
        gate += held[2 * step].to(tl.float32) * value
        up += held[2 * step + 1].to(tl.float32) * value
    for at in range(STEPS * DEPTH, D, DEPTH):
        value = piece(cells, at, D, DEPTH).to(tl.float32)
        gate += piece(gates, at, D, DEPTH).to(tl.float32) * value
        up += piece(ups, at, D, DEPTH).to(tl.float32) * value
    tl.store(hidden + pair * INNER + number, _swiglu(tl.sum(gate, 1), tl.sum(up, 1)), mask=number < INNER)


@triton.jit
def _pair_down(
    hidden, indices, weights, w2, y, stride, TOP: tl.constexpr, D: tl.constexpr, INNER: tl.constexpr,
    ADD: tl.constexpr, DEPTH: tl.constexpr, STEPS: tl.constexpr, WARPS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Some of a row of y, one to a warp, expert after expert. A thread adds every 32nd piece of an expert, as above."""
    each: tl.constexpr = (INNER + DEPTH - 1) // DEPTH  # pieces of an expert
    if EARLY:
        gdc_launch_dependents()
    token, number = tl.program_id(1), tl.program_id(0) * WARPS + tl.arange(0, WARPS)
    pairs, lines = indices + token * TOP, w2 + tl.minimum(number, D - 1)[:, None] * INNER
    held = ()
    for step in tl.static_range(STEPS):
        expert = tl.load(pairs + step // each, cache_modifier=".cg").to(tl.int64)
        held = held + (piece(lines + expert * (D * INNER), step % each * DEPTH, INNER, DEPTH),)
    if EARLY:
        gdc_wait()
    hiddens, shares = hidden + token * TOP * INNER + 0 * number[:, None], weights + token * TOP
    total = tl.zeros([WARPS, DEPTH], dtype=tl.float32)
    for step in tl.static_range(STEPS):
        h = piece(hiddens + step // each * INNER, step % each * DEPTH, INNER, DEPTH)
        total += held[step].to(tl.float32) * (h.to(tl.float32) * tl.load(shares + step // each))
    for step in range(STEPS, TOP * each):
        at, pair = step % each * DEPTH, step // each
        w = piece(lines + tl.load(pairs + pair).to(tl.int64) * (D * INNER), at, INNER, DEPTH)
        h = piece(hiddens + pair * INNER, at, INNER, DEPTH)
        total += w.to(tl.float32) * (h.to(tl.float32) * tl.load(shares + pair))
    result, place = tl.sum(total, 1), y + token.to(tl.int64) * stride + number
    if ADD:
        result += tl.load(place, mask=number < D, other=0.0).to(tl.float32)
    tl.store(place, result, mask=number < D)


@triton.jit
def _sort(indices, order, starts, pairs, E: tl.constexpr, STEP: tl.constexpr):
    """An expert's program: how many pairs stand before its own, then its own in their order."""
    expert = tl.program_id(0)
    before = tl.zeros([STEP], dtype=tl.int32)
    for at in range(0, pairs, STEP):
        pair = at + tl.arange(0, STEP)
        before += (tl.load(indices + pair, mask=pair < pairs, other=E) < expert).to(tl.int32)
    start = tl.sum(before)
    tl.store(starts + expert, start)
    for at in range(0, pairs, STEP):
        pair = at + tl.arange(0, STEP)
        mine = tl.load(indices + pair, mask=pair < pairs, other=E) == expert
        rank = tl.cumsum(mine.to(tl.int32), 0)
        tl.store(order + start + rank - 1, pair, mask=mine)
        start += tl.sum(mine.to(tl.int32))
    if expert == E - 1:
        tl.store(starts + E, start)


@triton.jit
def _lay_tiles(
    starts, tiles, count, E: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr
):  # fmt: skip
    """Which expert a tile serves, and from which place in the order on."""
    tile = tl.program_id(0) * STEP + tl.arange(0, STEP)
    e = tl.arange(0, WIDE)
    pairs = tl.load(starts + e + 1, mask=e < E, other=0) - tl.load(starts + e, mask=e < E, other=0)
    ends = tl.cumsum((pairs + ROWS - 1) // ROWS, 0)
    passed = ends[None, :] <= tile[:, None]
    expert = tl.sum(passed.to(tl.int32), 1)
    first = tl.max(tl.where(passed, ends[None, :], 0), 1)  # the expert's first tile
    place = tl.load(starts + expert, mask=expert < E, other=0) + (tile - first) * ROWS
    tl.store(tiles + 3 * tile, tl.where(expert < E, expert, -1), mask=tile < count)
    tl.store(tiles + 3 * tile + 1, place, mask=tile < count)
    tl.store(tiles + 3 * tile + 2, tl.load(starts + expert + 1, mask=expert < E, other=0), mask=tile < count)


@triton.jit
def _tile(w, row, rows, at, K: tl.constexpr, LINES: tl.constexpr, DEPTH: tl.constexpr, DESCRIBED: tl.constexpr):
    """Rows row.. of a matrix [rows, K], its columns at..; the last row again after the last."""
    if DESCRIBED:
        result = w.load([row, at])
    else:
        line = tl.minimum(row + tl.arange(0, LINES), rows - 1)
        result = _columns(w + line.to(tl.int64) * K, at + tl.arange(0, DEPTH), K, DEPTH)
    return result


@triton.jit
def _add_product(total, a, b, FEW: tl.constexpr):
    """total + a·bᵀ. Few rows of a stand second in the product: a tensor core of 9.0 takes no fewer than 64 as first."""
    if FEW:
        total = tl.dot(b, tl.trans(a), total, input_precision="ieee")
    else:
        total = tl.dot(a, tl.trans(b), total, input_precision="ieee")
    return total


@triton.jit
def _up(
    x, order, tiles, w13, hidden, stride, TOP: tl.constexpr, E: tl.constexpr, D: tl.constexpr, INNER: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    """A tile of hidden, its rows in the order of experts. Of 128 rows at most half full, half is computed."""
    per_tile: tl.constexpr = (INNER + COLUMNS - 1) // COLUMNS
    tile, column = tl.program_id(0) // per_tile, tl.program_id(0) % per_tile * COLUMNS
    expert, first, end = tl.load(tiles + 3 * tile), tl.load(tiles + 3 * tile + 1), tl.load(tiles + 3 * tile + 2)
    row = expert * (2 * INNER) + column
    if expert >= 0:
        if ROWS < 128:
            _up_rows(
                x, order, w13, hidden, first, end, row, column, stride, TOP, E, D, INNER, COLUMNS, DEPTH, DESCRIBED,
                ROWS,
            )  # fmt: skip
        elif end - first > 64:
            _up_rows(
                x, order, w13, hidden, first, end, row, column, stride, TOP, E, D, INNER, COLUMNS, DEPTH, DESCRIBED, 128
            )
        else:
            _up_rows(
                x, order, w13, hidden, first, end, row, column, stride, TOP, E, D, INNER, COLUMNS, DEPTH, DESCRIBED, 64
            )


@triton.jit
def _up_rows(
    x, order, w13, hidden, first, end, row, column, stride, TOP: tl.constexpr, E: tl.constexpr, D: tl.constexpr,
    INNER: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, DESCRIBED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    place = first + tl.arange(0, ROWS)
    token = tl.load(order + place, mask=place < end, other=0) // TOP
    lines = x + token.to(tl.int64) * stride
    few: tl.constexpr = ROWS < 64
    gate = tl.zeros([COLUMNS, ROWS] if few else [ROWS, COLUMNS], dtype=tl.float32)
    up = tl.zeros([COLUMNS, ROWS] if few else [ROWS, COLUMNS], dtype=tl.float32)
    for at in range(0, D, DEPTH):
        a = _columns(lines, at + tl.arange(0, DEPTH), D, DEPTH, place < end)
        gate = _add_product(gate, a, _tile(w13, row, E * 2 * INNER, at, D, COLUMNS, DEPTH, DESCRIBED), few)
        up = _add_product(up, a, _tile(w13, row + INNER, E * 2 * INNER, at, D, COLUMNS, DEPTH, DESCRIBED), few)
    result = _swiglu(gate, up).to(hidden.dtype.element_ty)
    inner = column + tl.arange(0, COLUMNS)
    lines = hidden + place.to(tl.int64)[:, None] * INNER
    mask = (place < end)[:, None] & (inner < INNER)[None, :]
    tl.store(lines + inner[None, :], tl.trans(result) if few else result, mask=mask)


@triton.jit
def _down(
    hidden, order, tiles, shares, w2, parts, E: tl.constexpr, D: tl.constexpr, INNER: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    """A tile of weighted results, each stored where its pair t·k+j stands; halves as in _up."""
    per_tile: tl.constexpr = (D + COLUMNS - 1) // COLUMNS
    tile, column = tl.program_id(0) // per_tile, tl.program_id(0) % per_tile * COLUMNS
    expert, first, end = tl.load(tiles + 3 * tile), tl.load(tiles + 3 * tile + 1), tl.load(tiles + 3 * tile + 2)
    row = expert * D + column
    if expert >= 0:
        if ROWS < 128:
            _down_rows(
                hidden, order, shares, w2, parts, first, end, row, column, E, D, INNER, COLUMNS, DEPTH, DESCRIBED, ROWS
            )
        elif end - first > 64:
            _down_rows(
                hidden, order, shares, w2, parts, first, end, row, column, E, D, INNER, COLUMNS, DEPTH, DESCRIBED, 128
            )
        else:
            _down_rows(
                hidden, order, shares, w2, parts, first, end, row, column, E, D, INNER, COLUMNS, DEPTH, DESCRIBED, 64
            )


@triton.jit
def _down_rows(
    hidden, order, shares, w2, parts, first, end, row, column, E: tl.constexpr, D: tl.constexpr, INNER: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr, DESCRIBED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    place = first + tl.arange(0, ROWS)
    inside = place < end
    lines = hidden + place.to(tl.int64) * INNER
    few: tl.constexpr = ROWS < 64
    result = tl.zeros([COLUMNS, ROWS] if few else [ROWS, COLUMNS], dtype=tl.float32)
    for at in range(0, INNER, DEPTH):
        a = _columns(lines, at + tl.arange(0, DEPTH), INNER, DEPTH, inside)
        result = _add_product(result, a, _tile(w2, row, E * D, at, INNER, COLUMNS, DEPTH, DESCRIBED), few)
    result = tl.trans(result) if few else result
    pair = tl.load(order + place, mask=inside, other=0)
    result = (result * tl.load(shares + pair)[:, None]).to(parts.dtype.element_ty)
    d = column + tl.arange(0, COLUMNS)
    lines = parts + pair.to(tl.int64)[:, None] * D
    tl.store(lines + d[None, :], result, mask=inside[:, None] & (d < D)[None, :])


@triton.jit
def _sum(parts, y, stride, TOP: tl.constexpr, D: tl.constexpr, ADD: tl.constexpr, STEP: tl.constexpr):
    """The parts of a row, in the order chosen, in fp32."""
    token = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * STEP + tl.arange(0, STEP)
    total = tl.zeros([STEP], dtype=tl.float32)
    for j in tl.static_range(TOP):
        total += tl.load(parts + (token * TOP + j) * D + d, mask=d < D, other=0.0).to(tl.float32)
    place = y + token * stride + d
    if ADD:
        total += tl.load(place, mask=d < D, other=0.0).to(tl.float32)
    tl.store(place, total, mask=d < D)
