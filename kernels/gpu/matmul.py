"""Rows times a weight with one order of summation: columns of 64 from the first to the last, for any number of rows.

cuBLAS chooses anew for every number of rows, so there a row's bits tell who was beside it. Here they do not, at some
cost: what the batch-invariant mode multiplies with. Tuned for compute capability 9.0.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

DEPTH = 64  # columns of a step; all of a sum's order
MANY = 512  # rows; more take larger tiles, which changes no sum
GROUP = 8  # row tiles whose columns are computed together: they share the weight in L2


def matmul(x: Tensor, weight: Tensor) -> Tensor:
    """``x·weightᵀ``. x [T,K] rows may be strided, weight [N,K] -> [T,N] in x's dtype, summed in fp32."""
    (rows, width), columns = x.shape, weight.shape[0]
    tile, across, warps, stages = _tile(x)
    out = torch.empty(rows, columns, dtype=x.dtype, device=x.device)
    _matmul[(triton.cdiv(rows, tile) * triton.cdiv(columns, across),)](
        x, weight, out, rows, x.stride(0), weight.stride(0), N=columns, K=width, ROWS=tile, COLUMNS=across,
        DEPTH=DEPTH, GROUP=GROUP, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


def _tile(x: Tensor) -> tuple[int, int, int, int]:
    """(rows, columns, warps, stages). The larger one takes 144 KB of shared memory, the smaller one 72."""
    if x.is_cuda and x.shape[0] > MANY and x.element_size() == 2:
        properties = torch.cuda.get_device_properties(x.device)
        if getattr(properties, "shared_memory_per_block_optin", 0) >= 160 * 1024:
            return 128, 256, 8, 3
    return 64, 128, 4, 3 if x.element_size() == 2 else 1


@triton.jit
def _matmul(
    x, weight, out, rows, x_row, weight_row, N: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    across = tl.cdiv(N, COLUMNS)
    first = tl.program_id(0) // (GROUP * across) * GROUP
    together = tl.minimum(tl.cdiv(rows, ROWS) - first, GROUP)
    place = tl.program_id(0) % (GROUP * across)
    row = (first + place % together) * ROWS + tl.arange(0, ROWS)
    column = place // together * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    left = x + row.to(tl.int64)[:, None] * x_row + depth[None, :]
    right = weight + column.to(tl.int64)[None, :] * weight_row + depth[:, None]
    mine, there = (row < rows)[:, None], (column < N)[None, :]
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, K, DEPTH):
        if K % DEPTH == 0:
            a = tl.load(left + start, mask=mine, other=0.0)
            b = tl.load(right + start, mask=there, other=0.0)
        else:
            within = depth < K - start
            a = tl.load(left + start, mask=mine & within[None, :], other=0.0)
            b = tl.load(right + start, mask=there & within[:, None], other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee")
    target = out + row.to(tl.int64)[:, None] * N + column[None, :]
    tl.store(target, total.to(out.dtype.element_ty), mask=mine & there)
