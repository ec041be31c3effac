"""The attention kernel of mla_prefill.py for compute capability 9.0, with its order of work set by hand (Gluon).

While the softmax of a tile is computed, the tensor cores work on the values of the tile before and on the scores of the
next. Triton itself waits for scores as soon as they are asked for. The mask is always applied: it is hidden behind the
tensor cores, and every tile takes the same instructions, so the same bits.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    warpgroup_mma,
    warpgroup_mma_init,
    warpgroup_mma_wait,
)

KEYS, WARPS = 64, 8
BUFFERS = gl.constexpr(4)  # the tile that is worked on, the one before or the next, and two under way


@gluon.jit
def attend(
    q, expanded, shared, lengths, starts, first_chunk, sequence_of, o, sums, peaks, first, keys, scale, kept, q_row,
    q_head, HEADS: gl.constexpr, NOPE: gl.constexpr, SHARED: gl.constexpr, VALUE: gl.constexpr, CHUNK: gl.constexpr,
    ROWS: gl.constexpr, KEYS: gl.constexpr, IS_FIRST: gl.constexpr,
):  # fmt: skip
    """As ``_attend_kernel`` of mla_prefill.py, for 16 bits and widths of 64 or 128."""
    chunk = gl.num_programs(0) - 1 - gl.program_id(0)
    head = gl.program_id(1)
    sequence = gl.load(sequence_of + chunk).to(gl.int64)
    chunk_within = chunk - gl.load(first_chunk + sequence)
    start_row = gl.load(starts + sequence)
    rows = gl.load(starts + sequence + 1) - start_row
    length = gl.load(lengths + sequence)
    position = length - rows + chunk_within * CHUNK
    seen = gl.minimum(position + ROWS, length)
    if (chunk_within % (ROWS // CHUNK) != 0) | (first >= seen):
        return

    s_mma: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[8, 1], instr_shape=[16, KEYS, 16])
    o_mma: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[8, 1], instr_shape=[16, VALUE, 16])
    by_row: gl.constexpr = gl.SliceLayout(1, s_mma)
    swizzled: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16)
    dtype: gl.constexpr = q.dtype.element_ty
    k_memory = gl.allocate_shared_memory(dtype, [BUFFERS, KEYS, NOPE], swizzled)
    t_memory = gl.allocate_shared_memory(dtype, [BUFFERS, KEYS, SHARED], swizzled)
    v_memory = gl.allocate_shared_memory(dtype, [BUFFERS, KEYS, VALUE], swizzled)

    stop = gl.minimum(seen - first, keys)
    k = expanded + (sequence * HEADS + head) * keys * (NOPE + VALUE)
    tails = shared + sequence * keys * SHARED
    # A group of copies holds the keys of a tile and the values of the tile before it: they are needed together.
    _copy(k_memory.index(0), k, 0, stop, NOPE + VALUE, NOPE, KEYS)
    _copy(t_memory.index(0), tails, 0, stop, SHARED, SHARED, KEYS)
    async_copy.commit_group()
    for ahead in gl.static_range(1, 3):
        _copy(k_memory.index(ahead), k, ahead * KEYS, stop, NOPE + VALUE, NOPE, KEYS)
        _copy(t_memory.index(ahead), tails, ahead * KEYS, stop, SHARED, SHARED, KEYS)
        _copy(v_memory.index(ahead - 1), k + NOPE, (ahead - 1) * KEYS, stop, NOPE + VALUE, VALUE, KEYS)
        async_copy.commit_group()

    left = rows - chunk_within * CHUNK
    q_rows = q + (start_row + chunk_within * CHUNK).to(gl.int64) * q_row + head * q_head
    q_memory = gl.allocate_shared_memory(dtype, [ROWS, NOPE], swizzled, _rows(q_rows, q_row, left, NOPE, ROWS))
    qt_memory = gl.allocate_shared_memory(
        dtype, [ROWS, SHARED], swizzled, _rows(q_rows + NOPE, q_row, left, SHARED, ROWS)
    )
    fence_async_shared()

    row = gl.arange(0, ROWS, layout=by_row)
    place = (start_row + chunk_within * CHUNK + row).to(gl.int64) * HEADS + head
    o_row = gl.arange(0, ROWS, layout=gl.SliceLayout(1, o_mma))
    value = gl.arange(0, VALUE, layout=gl.SliceLayout(0, o_mma))
    o_place = (start_row + chunk_within * CHUNK + o_row).to(gl.int64) * HEADS + head
    o_place = gl.expand_dims(o_place * VALUE, 1) + gl.expand_dims(value, 0)
    o_there = gl.expand_dims(o_row < left, 1)
    if IS_FIRST:
        acc = gl.zeros([ROWS, VALUE], gl.float32, layout=o_mma)
        peak = gl.full([ROWS], float("-inf"), gl.float32, layout=by_row)
        mass = gl.zeros([ROWS], gl.float32, layout=by_row)
    else:
        acc = gl.load(sums + o_place, mask=o_there, other=0.0)
        peak = gl.load(peaks + place, mask=row < left, other=0.0)
        mass = gl.load(peaks + kept * HEADS + place, mask=row < left, other=1.0)

    key = gl.arange(0, KEYS, layout=gl.SliceLayout(0, s_mma))
    async_copy.wait_group(2)
    fence_async_shared()
    zeros = gl.zeros([ROWS, KEYS], gl.float32, layout=s_mma)
    coming = warpgroup_mma(q_memory, k_memory.index(0).permute((1, 0)), zeros, use_acc=False, is_async=True)
    coming = warpgroup_mma(qt_memory, t_memory.index(0).permute((1, 0)), coming, is_async=True)
    scores = warpgroup_mma_wait(0, deps=[coming])
    acc = warpgroup_mma_init(acc)
    for start in range(0, stop, KEYS):
        tile = start // KEYS
        later, next_, this = (tile + 3) % BUFFERS, (tile + 1) % BUFFERS, tile % BUFFERS
        _copy(k_memory.index(later), k, start + 3 * KEYS, stop, NOPE + VALUE, NOPE, KEYS)
        _copy(t_memory.index(later), tails, start + 3 * KEYS, stop, SHARED, SHARED, KEYS)
        _copy(v_memory.index((tile + 2) % BUFFERS), k + NOPE, start + 2 * KEYS, stop, NOPE + VALUE, VALUE, KEYS)
        async_copy.commit_group()
        async_copy.wait_group(2)
        fence_async_shared()
        coming = warpgroup_mma(q_memory, k_memory.index(next_).permute((1, 0)), zeros, use_acc=False, is_async=True)
        coming = warpgroup_mma(qt_memory, t_memory.index(next_).permute((1, 0)), coming, is_async=True)

        last = gl.expand_dims(position - first - start + row, 1)  # a row sees the tile's keys up to this one
        scores = gl.where(gl.expand_dims(key, 0) <= last, scores, float("-inf"))
        new_peak = gl.maximum(peak, gl.max(scores, 1))  # finite: every row sees the sequence's first key
        p = gl.exp2(gl.fma(scores, scale, gl.expand_dims(-(new_peak * scale), 1)))
        fade = gl.exp2((peak - new_peak) * scale)
        mass = gl.fma(mass, fade, gl.sum(p, 1))
        peak = new_peak
        p = gl.convert_layout(p.to(dtype), gl.DotOperandLayout(0, o_mma, 2))

        total, scores = warpgroup_mma_wait(0, deps=[acc, coming])
        total = total * gl.expand_dims(gl.convert_layout(fade, gl.SliceLayout(1, o_mma)), 1)
        acc = warpgroup_mma(p, v_memory.index(this), total, is_async=True)
    acc = warpgroup_mma_wait(0, deps=[acc])
    async_copy.wait_group(0)

    if seen <= first + keys:
        whole = gl.expand_dims(gl.convert_layout(mass, gl.SliceLayout(1, o_mma)), 1)
        gl.store(o + o_place, (acc / whole).to(dtype), mask=o_there)
    else:
        gl.store(sums + o_place, acc, mask=o_there)
        gl.store(peaks + place, peak, mask=row < left)
        gl.store(peaks + kept * HEADS + place, mass, mask=row < left)


@gluon.jit
def _copy(memory, rows, start, stop, ROW: gl.constexpr, WIDTH: gl.constexpr, KEYS: gl.constexpr):
    """Starts the copy of a tile in pieces of 16 bytes; zeros, if it begins at ``stop`` or behind it."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // WIDTH, WIDTH // 8], [8, 1], [1, 0])
    key = gl.arange(0, KEYS, layout=gl.SliceLayout(1, layout))
    column = gl.arange(0, WIDTH, layout=gl.SliceLayout(0, layout))
    place = gl.expand_dims(key * ROW, 1) + gl.expand_dims(column, 0)
    mask = gl.expand_dims(start + key * 0 < stop, 1)
    async_copy.async_copy_global_to_shared(memory, rows + start * ROW + place, mask=mask)


@gluon.jit
def _rows(rows, row_stride, left, WIDTH: gl.constexpr, ROWS: gl.constexpr):
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // WIDTH, WIDTH // 8], [8, 1], [1, 0])
    row = gl.arange(0, ROWS, layout=gl.SliceLayout(1, layout))
    column = gl.arange(0, WIDTH, layout=gl.SliceLayout(0, layout))
    place = gl.expand_dims(row * row_stride, 1) + gl.expand_dims(column, 0)
    return gl.load(rows + place, mask=gl.expand_dims(row < left, 1), other=0.0)
