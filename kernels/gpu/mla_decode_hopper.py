"""The reading kernel of mla_decode.py for compute capability 9.0, with its copies placed by hand (Gluon).

Triton's own pipeline puts the copy of the next tile behind the work on this one when there is room for two tiles only,
so that nothing is under way while the tensor cores work, and a third tile does not fit. Here the copy is started first.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, warpgroup_mma, warpgroup_mma_wait
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

KEYS, WARPS = 64, 4  # a warp group; with two, both would compute the same scores
AHEAD = 0  # tiles, of which the lines are asked into the L2 cache before they are copied: 0 is never


@gluon.jit
def read_split(
    query, shared, pages, tables, lengths, parts, peaks, masses, scale, splits, heads, shared_row, shared_head,
    page_stride, table_stride, TOKEN: gl.constexpr, RANK: gl.constexpr, SHARED: gl.constexpr, PAGE: gl.constexpr,
    KEYS: gl.constexpr, AHEAD: gl.constexpr, SPLITS: gl.constexpr, STEP: gl.constexpr, FEW: gl.constexpr,
    SHORTEST: gl.constexpr, USUAL: gl.constexpr, HEADS: gl.constexpr, EARLY: gl.constexpr,
):  # fmt: skip
    """As ``_read_split`` of mla_decode.py, for 16 bits and widths that are powers of two, at least 64."""
    sequence, split, block = gl.program_id(0).to(gl.int64), gl.program_id(1), gl.program_id(2)
    if EARLY:  # as kernels/gpu/early.py says
        gdc_launch_dependents()
        gdc_wait()
    length = gl.load(lengths + sequence)
    steps = (length + STEP - 1) // STEP  # as _split_length of mla_decode.py
    usual = gl.minimum((steps + FEW - 1) // FEW * STEP, USUAL)
    piece = gl.maximum(gl.maximum((steps + SPLITS - 1) // SPLITS * STEP, usual), SHORTEST)
    first = split * piece
    if first >= length:
        return
    stop = gl.minimum(first + piece, length)

    mma: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, HEADS, 16])
    swizzled: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16)
    thin: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=2 * HEADS, element_bitwidth=16)  # heads side by side
    dtype: gl.constexpr = pages.dtype.element_ty
    latents = gl.allocate_shared_memory(dtype, [2, KEYS, RANK], swizzled)
    tails = gl.allocate_shared_memory(dtype, [2, KEYS, SHARED], swizzled)
    weights = gl.allocate_shared_memory(dtype, [KEYS, HEADS], thin)

    table = tables + sequence * table_stride
    page = gl.load(table + first // PAGE)
    _copy(pages, page, page_stride, first, stop, latents.index(0), tails.index(0), TOKEN, RANK, SHARED, PAGE, KEYS)
    page = _page_at(table, first + KEYS, stop, PAGE)
    later = _page_at(table, first + AHEAD * KEYS, stop, PAGE)

    q = _queries(query + (sequence * heads + block * HEADS) * RANK, RANK, heads - block * HEADS, RANK, HEADS)
    q_shared = _queries(
        shared + sequence * shared_row + block * HEADS * shared_head, shared_head, heads - block * HEADS, SHARED, HEADS
    )
    q_memory = gl.allocate_shared_memory(dtype, [HEADS, RANK], swizzled, q).permute((1, 0))
    q_shared_memory = gl.allocate_shared_memory(dtype, [HEADS, SHARED], swizzled, q_shared).permute((1, 0))

    fence_async_shared()

    by_head: gl.constexpr = gl.SliceLayout(0, mma)
    key = gl.arange(0, KEYS, layout=gl.SliceLayout(1, mma))
    peak = gl.full([HEADS], float("-inf"), gl.float32, layout=by_head)
    mass = gl.zeros([KEYS, HEADS], gl.float32, layout=mma)
    acc = gl.zeros([RANK, HEADS], gl.float32, layout=mma)
    current = 0
    for start in range(first, stop, KEYS):
        _copy(
            pages, page, page_stride, start + KEYS, stop, latents.index(1 - current), tails.index(1 - current),
            TOKEN, RANK, SHARED, PAGE, KEYS,
        )  # fmt: skip
        page = _page_at(table, start + 2 * KEYS, stop, PAGE)
        if AHEAD:
            _into_l2(pages, later, page_stride, start + AHEAD * KEYS, stop, TOKEN, PAGE, KEYS)
            later = _page_at(table, start + (AHEAD + 1) * KEYS, stop, PAGE)
        async_copy.wait_group(1)
        fence_async_shared()
        scores = gl.zeros([KEYS, HEADS], gl.float32, layout=mma)
        scores = warpgroup_mma(latents.index(current), q_memory, scores, use_acc=False, is_async=True)
        scores = warpgroup_mma(tails.index(current), q_shared_memory, scores, is_async=True)
        scores = warpgroup_mma_wait(0, deps=[scores])
        inside = gl.expand_dims(start + key < stop, 1)
        scores = gl.where(inside, scores * scale, float("-inf"))
        new_peak = gl.maximum(peak, gl.max(scores, 0))  # finite: a tile has a key
        p = gl.exp2(scores - gl.expand_dims(new_peak, 0))
        fade = gl.expand_dims(gl.exp2(peak - new_peak), 0)
        mass = mass * fade + p
        weights.store(p.to(dtype))
        fence_async_shared()
        acc = warpgroup_mma(latents.index(current).permute((1, 0)), weights, acc * fade, is_async=True)
        acc = warpgroup_mma_wait(0, deps=[acc])
        peak = new_peak
        current = 1 - current
    async_copy.wait_group(0)

    part = (sequence * splits + split) * gl.num_programs(2) + block
    head = gl.arange(0, HEADS, layout=by_head)
    column = gl.arange(0, RANK, layout=gl.SliceLayout(1, mma))
    place = gl.expand_dims(column, 1) * HEADS + gl.expand_dims(head, 0)
    gl.store(parts + part * (RANK * HEADS) + place, acc)
    gl.store(peaks + part * HEADS + head, peak)
    gl.store(masses + part * HEADS + head, gl.sum(mass, 0))


@gluon.jit
def _page_at(table, token, stop, PAGE: gl.constexpr):
    return gl.load(table + token // PAGE, mask=token < stop, other=0)


@gluon.jit
def _into_l2(
    pages, page, page_stride, start, stop, TOKEN: gl.constexpr, PAGE: gl.constexpr, KEYS: gl.constexpr
):  # fmt: skip
    """Asks for the lines of a tile, rows behind the last token of a page's tile included: they are memory too."""
    tile = pages + page.to(gl.int64) * page_stride + (start % PAGE) * TOKEN
    lines: gl.constexpr = KEYS * TOKEN * 2 // 128
    for begin in gl.static_range(0, lines, 128):
        line = begin + gl.arange(0, 128, layout=gl.BlockedLayout([1], [32], [4], [0]))
        gl.inline_asm_elementwise(
            "{ .reg .pred p; setp.ne.b32 p, $2, 0; @p prefetch.global.L2 [$1]; mov.b32 $0, 0; }",
            "=r,l,r",
            [tile + line * 64, ((line < lines) & (start < stop)).to(gl.int32)],
            dtype=gl.int32,
            is_pure=False,
            pack=1,
        )


@gluon.jit
def _copy(
    pages, page, page_stride, start, stop, latents, tails, TOKEN: gl.constexpr, RANK: gl.constexpr,
    SHARED: gl.constexpr, PAGE: gl.constexpr, KEYS: gl.constexpr,
):  # fmt: skip
    """Starts the copy of a tile; rows behind ``stop`` become zeros without being read."""
    tile = pages + page.to(gl.int64) * page_stride + (start % PAGE) * TOKEN
    _copy_columns(tile, start, stop, latents, TOKEN, RANK, KEYS)
    _copy_columns(tile + RANK, start, stop, tails, TOKEN, SHARED, KEYS)
    async_copy.commit_group()


@gluon.jit
def _copy_columns(tile, start, stop, memory, TOKEN: gl.constexpr, WIDTH: gl.constexpr, KEYS: gl.constexpr):
    """In pieces of 16 bytes, a warp along a row as far as it reaches."""
    along: gl.constexpr = 32 if WIDTH >= 256 else WIDTH // 8
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [32 // along, along], [4, 1], [1, 0])
    key = gl.arange(0, KEYS, layout=gl.SliceLayout(1, layout))
    column = gl.arange(0, WIDTH, layout=gl.SliceLayout(0, layout))
    place = gl.expand_dims(key * TOKEN, 1) + gl.expand_dims(column, 0)
    mask = gl.expand_dims(start + key < stop, 1)
    async_copy.async_copy_global_to_shared(memory, tile + place, mask=mask)


@gluon.jit
def _queries(rows, row_stride, heads, WIDTH: gl.constexpr, HEADS: gl.constexpr):
    along: gl.constexpr = 32 if WIDTH >= 256 else WIDTH // 8
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [32 // along, along], [4, 1], [1, 0])
    head = gl.arange(0, HEADS, layout=gl.SliceLayout(1, layout))
    column = gl.arange(0, WIDTH, layout=gl.SliceLayout(0, layout))
    place = gl.expand_dims(head * row_stride, 1) + gl.expand_dims(column, 0)
    return gl.load(rows + place, mask=gl.expand_dims(head < heads, 1), other=0.0)
