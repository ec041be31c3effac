"""Kimi Delta Attention for training, forward: what model-spec §4.1 calls G, P, R, U, W, N, O and the states of chunks.

Three launches: rows (norm, gate, running sums of the gate), factors of every chunk on its own, and the scan over the
chunks. All that is kept lies in tiles of 64 rows, [chunks,H,64,·]: the rows after the end of a sequence hold zeros,
and the gate's sum stays there what it was, so no kernel after the first has to know where a sequence ends.

Exponents. The gate is unbounded, so e^(G_r − G_i) of a pair of rows can not be split anywhere: both sides are measured
from a row near them. A round of ``level`` takes the blocks of 2^(level+1) rows, measured from the first row of their
later half, and in it the pairs of a later with an earlier row: no exponent is positive then, whatever the gate does.
Levels 0 to 5 cover a chunk. Where a gate is slow there is less to do: blocks in which no half decays below 2^-100
in any channel take all their pairs in one round from the middle row, both signs of the exponent being harmless. What a
product of all 64 rows gives besides (it may be infinite there) is dropped by selection. The choice is the chunk's own:
``reach``. G is in units of log2: a chunk of -200 nats a token ends at -18466, where an exponent is right to 1e-3.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.gate import log2_decay
from kernels.gpu.packing import CHUNK, Packing

ROWS = tl.constexpr(CHUNK)
LEVELS = tl.constexpr(6)
# One configuration of each launch. 128 registers a thread leave room for two programs of 8 warps on an SM.
NORMS: dict[str, Any] = {"num_warps": 8, "maxnreg": 128}
FACTORS: dict[str, Any] = {"part": 64, "num_warps": 4}  # key channels taken at a time
SCAN: dict[str, Any] = {"part": 64, "num_warps": 4, "num_stages": 3}  # value channels of a program
HARMLESS = tl.constexpr(100.0)  # bits: both factors and their sums stay inside fp32 and bf16


@dataclass(frozen=True)
class Factors:
    """What the forward leaves for the backward, in tiles. dtype: that of the products' operands."""

    q: Tensor  # [chunks,H,64,K] unit length times K^-1/2
    k: Tensor  # [chunks,H,64,K] unit length
    G: Tensor  # [chunks,H,64,K] fp32: running sum of the gate within the chunk, log2
    reach: Tensor  # [chunks,H] int32: blocks of 2^reach rows need one round; 6, 5, 4, or 0 for none
    lengths: Tensor  # [2,chunks,H,64] fp32: 1 / length of q and of k
    read: Tensor  # [chunks,H,64,K] e^G ⊙ q
    write: Tensor  # [chunks,H,64,K] e^(G_last − G) ⊙ k
    P: Tensor  # [chunks,H,64,64] decayed products of q with k, i ≤ r
    R: Tensor  # [chunks,H,64,64] (I + L)^-1
    W: Tensor  # [chunks,H,64,K]
    N: Tensor  # [chunks,H,64,V] what is written
    states: Tensor  # [chunks,H,K,V] before each chunk


@triton.jit
def chunk_rows(chunk, starts, first_chunk, sequence_of):
    """The 64 row numbers of a chunk, int64, and which of them its sequence has."""
    sequence = tl.load(sequence_of + chunk)
    at = (chunk - tl.load(first_chunk + sequence)) * ROWS + tl.arange(0, ROWS)
    row = tl.load(starts + sequence) + at
    return row.to(tl.int64), row < tl.load(starts + sequence + 1)


@triton.jit
def call(rows, LINES: tl.constexpr, AHEAD: tl.constexpr):
    """Asks the L2 cache for LINES · 128 bytes from each of these addresses on; nothing waits for them."""
    if AHEAD:
        places = rows.to(tl.int64)[:, None] + 128 * tl.arange(0, LINES)[None]
        asm: tl.constexpr = "prefetch.global.L2 [$1]; mov.u32 $0, 0;"
        tl.inline_asm_elementwise(asm, "=r,l", [places], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def paired(level, reach):
    """[64,64]: which pairs (r, i) the round of a level takes."""
    r, i = tl.arange(0, ROWS)[:, None], tl.arange(0, ROWS)[None]
    block = (r > i) & ((r >> (level + 1)) == (i >> (level + 1)))
    return block & (((r >> level) != (i >> level)) | (level < reach))


@triton.jit
def decays(G, at, c, level, reach, K: tl.constexpr, like=0.0):
    """Decay of a pair's later row since the anchor, of its earlier row until it [64,channels]. ``G``: of the tile.

    ``like``: zeros made of what the decays are for; Triton then has them in its layout, not each moved there by itself.
    """
    anchor = ((tl.arange(0, ROWS) >> level) | 1) << level
    distance = tl.load(G + at) - tl.load(G + anchor[:, None] * K + c[None]) + like
    most = tl.where(level < reach, 128.0, 0.0)
    return tl.exp2(tl.minimum(distance, most)), tl.exp2(tl.minimum(-distance, most))


@triton.jit
def exact_sums(chosen, x):
    """chosen @ x as exact as fp32: zeros and ones [64,64], bf16; x [64,K], a number of which is three of bf16.

    By fma, which no pass turns into a chain of products: of those Triton gives half to each of eight warps twice.
    """
    high = _top(x)
    x -= high
    middle = _top(x)
    low = tl.dot(chosen, (x - middle).to(tl.bfloat16))
    return tl.fma(tl.dot(chosen, high.to(tl.bfloat16)), 1.0, tl.fma(tl.dot(chosen, middle.to(tl.bfloat16)), 1.0, low))


@triton.jit
def _top(x):
    """The eight leading bits of fp32 numbers, which bf16 holds."""
    return (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)


@triton.jit
def _reach(gate):
    """From the gates [64,K] in bits, ≤ 0: how large the blocks may be whose halves decay by less than HARMLESS.

    One product sums all halves: of 8 rows into its rows 0 to 7, of 16 into 8 to 11, of 32 into 12 and 13.
    """
    r, i = tl.arange(0, ROWS)[:, None], tl.arange(0, ROWS)[None]
    half = tl.where(r < 8, i // 8 == r, tl.where(r < 12, i // 16 == r - 8, i // 32 == r - 12))
    sums = tl.dot(tl.where(half, 1.0, 0.0).to(tl.bfloat16), gate.to(tl.bfloat16))
    first = tl.min(tl.where(tl.min(sums, 1) <= -HARMLESS, tl.arange(0, ROWS), ROWS), 0)
    return tl.where(first >= 14, 6, tl.where(first >= 12, 5, tl.where(first >= 8, 4, 0)))


@triton.jit
def tile(chunk, head, heads, size: tl.constexpr):
    """Where a chunk's tile of ``size`` elements begins."""
    return (chunk * heads + head).to(tl.int64) * size


@triton.jit
def _unit(x, rows, at, real, K: tl.constexpr):
    """Rows of a strided [T,H,K] over their length -> (unit rows, 1 / length), fp32."""
    x = tl.load(x + rows[:, None] + at[None], mask=real[:, None], other=0.0).to(tl.float32)
    rate = tl.rsqrt(tl.sum(x * x, 1) + 1e-6)
    return x * rate[:, None], rate


@triton.jit
def _rows(q, k, a, A_log, dt_bias, q_unit, k_unit, G, reach, lengths, read, write, starts, first_chunk, sequence_of,
          q_stride, k_stride, a_stride, H, CHUNKS, SCALE: tl.constexpr, K: tl.constexpr,
          LOWER: tl.constexpr):  # fmt: skip
    h, chunk = tl.program_id(0), tl.program_id(1)
    row, real = chunk_rows(chunk, starts, first_chunk, sequence_of)
    i, c = tl.arange(0, ROWS), tl.arange(0, K)
    at = h * K + c
    a = tl.load(a + row[:, None] * a_stride + at[None], mask=real[:, None], other=0.0).to(tl.float32)
    gate = log2_decay(a + tl.load(dt_bias + at)[None], tl.exp(tl.load(A_log + h)), LOWER)
    gate = tl.where(real[:, None], gate, 0.0)
    tl.store(reach + chunk * H + h, _reach(gate))
    running = exact_sums(tl.where(i[:, None] >= i[None], 1.0, 0.0).to(tl.bfloat16), gate)
    to = tile(chunk, h, H, ROWS * K) + i[:, None] * K + c[None]
    tl.store(G + to, running)
    tl.debug_barrier()  # other threads of this program have written the last row
    last = tl.load(G + tile(chunk, h, H, ROWS * K) + (ROWS - 1) * K + c)
    x, rate = _unit(q, row * q_stride, at, real, K)
    tl.store(lengths + tile(chunk, h, H, ROWS) + i, rate)
    x = (x * SCALE).to(q_unit.dtype.element_ty)
    tl.store(q_unit + to, x)
    tl.store(read + to, (x * tl.exp2(running)).to(x.dtype))
    x, rate = _unit(k, row * k_stride, at, real, K)
    tl.store(lengths + tile(CHUNKS + chunk, h, H, ROWS) + i, rate)
    x = x.to(k_unit.dtype.element_ty)
    tl.store(k_unit + to, x)
    tl.store(write + to, (x * tl.exp2(last[None] - running)).to(x.dtype))


@triton.jit
def _inverse(L, DTYPE: tl.constexpr):
    """(I + L)^-1 of a strictly lower L [64,64]: blocks of 2·half rows from blocks of half, [[A,0],[-B·C·A,B]]."""
    r, i = tl.arange(0, ROWS)[:, None], tl.arange(0, ROWS)[None]
    R = tl.where(r == i, 1.0, 0.0) - tl.where(paired(0, 0), L, 0.0)
    for level in range(1, LEVELS):
        right = tl.dot(tl.where(paired(level, 0), L, 0.0).to(DTYPE), R.to(DTYPE))
        R -= tl.dot(R.to(DTYPE), right.to(DTYPE))
    return R


@triton.jit
def _factors(q_unit, k_unit, G, reach, v, b, P, R, U, W, starts, first_chunk, sequence_of,
             v_stride, b_stride, H, K: tl.constexpr, V: tl.constexpr, PART: tl.constexpr,
             INVERSE: tl.constexpr, AHEAD: tl.constexpr):  # fmt: skip
    h, chunk = tl.program_id(0), tl.program_id(1)
    i = tl.arange(0, ROWS)
    keys = tile(chunk, h, H, ROWS * K)
    call(q_unit + keys + i * K, K // 64, AHEAD)
    call(k_unit + keys + i * K, K // 64, AHEAD)
    call(G + keys + i * K, K // 32, AHEAD)
    row, real = chunk_rows(chunk, starts, first_chunk, sequence_of)
    call(v + tl.where(real, row, 0) * v_stride + h * V, (V + 63) // 64, AHEAD)
    dtype = k_unit.dtype.element_ty
    blocks = tl.load(reach + chunk * H + h)
    M = tl.zeros([ROWS, ROWS], tl.float32)
    scores = tl.zeros([ROWS, ROWS], tl.float32)
    for start in range(0, K, PART):
        c = start + tl.arange(0, PART)
        at = i[:, None] * K + c[None]
        same = tl.sum(tl.load(q_unit + keys + at).to(tl.float32) * tl.load(k_unit + keys + at), 1)
        scores += tl.where(i[:, None] == i[None], same[:, None], 0.0)
        for level in range(tl.maximum(blocks, 1) - 1, LEVELS):
            tl.debug_barrier()  # or the loads move out of the loop, and there are not the registers for that
            late, early = decays(G + keys, at, c, level, blocks, K)
            x = tl.load(k_unit + keys + at)
            y = tl.trans((x * early).to(dtype))
            M += tl.where(paired(level, blocks), tl.dot((x * late).to(dtype), y), 0.0)
            x = tl.load(q_unit + keys + at)
            scores += tl.where(paired(level, blocks), tl.dot((x * late).to(dtype), y), 0.0)
    square = tile(chunk, h, H, ROWS * ROWS) + i[:, None] * ROWS + i[None]
    tl.store(P + square, scores.to(dtype))
    c = tl.arange(0, V)  # what the inverse is for is loaded before it is made
    values = tl.load(v + (row * v_stride + h * V)[:, None] + c[None], mask=real[:, None], other=0.0).to(dtype)
    at = keys + i[:, None] * K + tl.arange(0, K)[None]
    decayed = (tl.load(k_unit + at) * tl.exp2(tl.load(G + at))).to(dtype)
    beta = tl.where(real, tl.sigmoid(tl.load(b + row * b_stride + h, mask=real, other=0.0).to(tl.float32)), 0.0)
    inverse = _inverse(beta[:, None] * M, INVERSE)
    tl.store(R + square, inverse.to(dtype))
    inverse = (inverse * beta[None]).to(dtype)
    tl.store(U + tile(chunk, h, H, ROWS * V) + i[:, None] * V + c[None], tl.dot(inverse, values).to(dtype))
    tl.store(W + at, tl.dot(inverse, decayed).to(dtype))


@triton.jit
def _scan(read, write, G, P, U, W, state, o, N, states, final, starts, first_chunk, H,
          K: tl.constexpr, V: tl.constexpr, PART: tl.constexpr, STATE: tl.constexpr):  # fmt: skip
    part, h, n = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    i, j, c = tl.arange(0, ROWS), tl.arange(0, K), part * PART + tl.arange(0, PART)
    dtype = read.dtype.element_ty
    begin, end, first = tl.load(starts + n), tl.load(starts + n + 1), tl.load(first_chunk + n)
    at = tile(n, h, H, K * V) + j[:, None] * V + c[None]
    S = tl.load(state + at) if STATE else tl.zeros([K, PART], tl.float32)
    stop = tl.load(first_chunk + n + 1)
    decay = tl.load(G + tile(first, h, H, ROWS * K) + (ROWS - 1) * K + j)
    for chunk in range(first, stop):
        following = tl.minimum(chunk + 1, stop - 1)
        following = tl.load(G + tile(following, h, H, ROWS * K) + (ROWS - 1) * K + j)  # in time: no dot waits for it
        keys = tile(chunk, h, H, ROWS * K) + i[:, None] * K + j[None]
        values = tile(chunk, h, H, ROWS * V) + i[:, None] * V + c[None]
        before = S.to(dtype)
        tl.store(states + tile(chunk, h, H, K * V) + j[:, None] * V + c[None], before)
        x = (tl.load(U + values) - tl.dot(tl.load(W + keys), before)).to(dtype)
        tl.store(N + values, x)
        y = tl.dot(tl.load(read + keys), before)
        y = tl.dot(tl.load(P + tile(chunk, h, H, ROWS * ROWS) + i[:, None] * ROWS + i[None]), x, y)
        row = begin + (chunk - first) * ROWS + i
        to = (row.to(tl.int64) * H + h) * V
        tl.store(o + to[:, None] + c[None], y.to(o.dtype.element_ty), mask=(row < end)[:, None])
        S = tl.dot(tl.trans(tl.load(write + keys)), x, S * tl.exp2(decay)[:, None])
        decay = following
    tl.store(final + at, S)


def forward(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor,
    packing: Packing, state: Tensor | None, lower_bound: float | None = None,
) -> tuple[Tensor, Tensor, Factors]:  # fmt: skip
    """-> (o [T,H,V], final state [N,H,K,V] fp32, what the backward needs). Shapes as in ``kda``."""
    (_, H, K), V, chunks = q.shape, v.shape[-1], packing.chunks
    dtype = torch.float32 if q.dtype == torch.float32 else torch.bfloat16

    def tiles(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.empty((chunks, H, *shape), dtype=kind, device=q.device)

    tables = (packing.starts, packing.first_chunk, packing.sequence_of)
    q_unit, k_unit, read, write, W = (tiles(CHUNK, K) for _ in range(5))
    G, reach = tiles(CHUNK, K, kind=torch.float32), tiles(kind=torch.int32)
    lengths = torch.empty((2, chunks, H, CHUNK), dtype=torch.float32, device=q.device)
    _rows[(H, chunks)](
        q, k, a, A_log, dt_bias, q_unit, k_unit, G, reach, lengths, read, write, *tables,
        q.stride(0), k.stride(0), a.stride(0), H, chunks, SCALE=K**-0.5, K=K, LOWER=lower_bound,
        **NORMS,
    )  # fmt: skip
    P, R, U = tiles(CHUNK, CHUNK), tiles(CHUNK, CHUNK), tiles(CHUNK, V)
    _factors[(H, chunks)](
        q_unit, k_unit, G, reach, v, b, P, R, U, W, *tables, v.stride(0), b.stride(0), H, K=K, V=V,
        PART=min(K, V, FACTORS["part"]), INVERSE=tl.float32 if dtype == torch.float32 else tl.float16,
        AHEAD=ahead(q_unit), num_warps=FACTORS["num_warps"], num_stages=1,
    )  # fmt: skip
    N, states = tiles(CHUNK, V), tiles(K, V)
    o = torch.empty(v.shape, dtype=q.dtype, device=q.device)
    final = torch.empty((packing.sequences, H, K, V), dtype=torch.float32, device=q.device)
    part = columns(W, SCAN["part"], packing.sequences * H, V)
    _scan[(V // part, H, packing.sequences)](
        read, write, G, P, U, W, final if state is None else state, o, N, states, final, *tables[:2], H,
        K=K, V=V, PART=part, STATE=state is not None, num_warps=SCAN["num_warps"],
        num_stages=stages(W, 3 * K + CHUNK + part, SCAN["num_stages"]),
    )  # fmt: skip
    return o, final, Factors(q_unit, k_unit, G, reach, lengths, read, write, P, R, W, N, states)


def ahead(keys: Tensor) -> bool:
    """Whether a launch calls its tiles into the L2 cache before it needs them: rows of 128 bytes, on a GPU."""
    return keys.is_cuda and keys.dtype == torch.bfloat16 and keys.shape[-1] >= 64


def columns(like: Tensor, most: int, strands: int, V: int) -> int:
    """Value channels of a scan's program. 32 where all of them then run at once: the way along is shorter (1.9 of 2.6
    µs a chunk on an H200), what all programs load together is more. ``strands``: sequences times heads."""
    if not like.is_cuda:
        return min(V, most)
    units = torch.cuda.get_device_properties(like.device).multi_processor_count
    return min(V, most if strands * V > 32 * units else 32)


def stages(like: Tensor, columns: int, most: int) -> int:
    """How many tiles of 64 rows and so many columns of like's dtype a launch holds in shared memory."""
    if not like.is_cuda:
        return 1
    device = torch.cuda.get_device_properties(like.device)
    room = device.shared_memory_per_block_optin - 16384  # type: ignore[attr-defined]
    return max(1, min(most, room // (CHUNK * columns * like.element_size())))
