"""Operations that the engine reaches only from within half a layer (layers.cpp), called by themselves."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.cpu.ops import Experts, Matrix, call


def add_matmul(y: Tensor, x: Tensor, w: Matrix) -> None:
    """y [T,out] += x · Wᵀ."""
    call("matmul", x.data_ptr(), x.stride(0), x.shape[0], w.c, y.data_ptr(), y.stride(0), 1)


def norm_in_place(x: Tensor, weight: Tensor, eps: float) -> None:
    rows, width = x.shape
    call("rms_norm", x.data_ptr(), x.stride(0), rows, width, weight.data_ptr(), eps, x.data_ptr(), x.stride(0))


@dataclass(frozen=True)
class Router:
    """kernels.moe.route's arguments."""

    weight: Tensor  # [E, D]
    bias: Tensor  # [E]
    top_k: int
    scale: float
    renormalize: bool
    bias_in_weights: bool

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [T,D] -> indices [T,k] int64, weights [T,k]."""
        rows, (count, width) = x.shape[0], self.weight.shape
        indices = torch.empty(rows, self.top_k, dtype=torch.int64)
        weights = x.new_empty(rows, self.top_k)
        call(
            "route", x.data_ptr(), x.stride(0), rows, width, self.weight.data_ptr(), self.bias.data_ptr(), count,
            self.top_k, self.scale, self.renormalize, self.bias_in_weights, indices.data_ptr(), weights.data_ptr(),
        )  # fmt: skip
        return indices, weights


def add_experts(experts: Experts, y: Tensor, x: Tensor, indices: Tensor, weights: Tensor) -> None:
    """y [T,D] += what the chosen experts and the shared one make of x [T,D]; indices, weights [T,k]."""
    call(
        "experts", x.data_ptr(), x.stride(0), x.shape[0], indices.data_ptr(), weights.data_ptr(), indices.shape[1],
        experts.c, experts.routed, 1, y.data_ptr(), y.stride(0),
    )  # fmt: skip
