"""A weight matrix that meets 64 rows at a time."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.norm import wide

ROWS = 64


def matmul_wide(a: Tensor, b: Tensor) -> Tensor:
    """a·b [m,n] in at least fp32: as it was summed, not rounded to 16 bits."""
    if a.is_cuda and a.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(a, b, out_dtype=torch.float32)
    return linear(wide(a), wide(b).T)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [T,in], weight [out,in] -> [T,out]. One row is given twice: of one, MKL's bits change with the threads."""
    if x.shape[0] == 1 and not x.is_cuda:
        return F.linear(x.expand(2, -1).contiguous(), weight)[:1]
    return F.linear(x, weight)


@dataclass(frozen=True)
class Weight:
    """``x [T,in] -> x · plainᵀ [T,out]``. On the CPU, 64 rows go through oneDNN with the matrix laid out for it once:

    MKL would copy the matrix into its own layout for every product, a fifth of the time of reading. Which of the two
    runs depends on the number of rows alone.
    """

    plain: Tensor  # [out, in]
    packed: Tensor | None  # oneDNN's layout; None on a GPU and in other dtypes than fp32

    @classmethod
    def of(cls, plain: Tensor) -> "Weight":
        suits = plain.device.type == "cpu" and plain.dtype == torch.float32 and torch.backends.mkldnn.is_available()
        return cls(plain, torch.ops.mkldnn._reorder_linear_weight(plain, ROWS) if suits else None)

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed is None or x.shape[0] != ROWS:
            return linear(x, self.plain)
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), self.packed, None, "none", [], "")
