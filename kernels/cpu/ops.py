"""The compiled operations over torch tensors: fp32 on the CPU, rows may be strided, columns may not.

They trust their shapes: engine/compiled.py checks a model's sizes once, when it is built.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.cpu import library as lib

LANES, PANEL = 16, 32
AT_ONCE = 1024  # rows that become bytes: a large matrix is not wanted in fp32 as well
FP32, BF16, PAIRS, BYTES = range(4)  # matmul.h: Form


@dataclass(frozen=True)
class Matrix:
    """W [out, in] in panels of 32 rows, in bf16 where that loses nothing."""

    columns: int
    data: Tensor  # keeps alive what ``c`` points to
    c: lib.Panels
    scales: Tensor | None = None


Pack = Callable[[Tensor], Matrix]


def pack(weight: Tensor) -> Matrix:
    """weight [out, in] -> its panels: fp32 to be multiplied exactly, bf16 by rows that are rounded to bf16."""
    columns, depth = weight.shape
    if weight.dtype == torch.bfloat16:
        return _pack_pairs(weight.contiguous())
    bf16 = bool((weight.bfloat16().float() == weight).all())
    data = torch.empty(_up(columns, PANEL) * depth, dtype=torch.bfloat16 if bf16 else torch.float32)
    weight = weight.contiguous()
    call("pack", weight.data_ptr(), columns, depth, bf16, data.data_ptr())
    return Matrix(columns, data, lib.Panels(data.data_ptr(), columns, depth, BF16 if bf16 else FP32))


def _pack_pairs(weight: Tensor) -> Matrix:
    columns, depth = weight.shape
    data = torch.empty(_up(columns, PANEL) * _up(depth, PANEL), dtype=torch.bfloat16)
    call("pack_pairs", weight.data_ptr(), columns, depth, data.data_ptr())
    return Matrix(columns, data, lib.Panels(data.data_ptr(), columns, depth, PAIRS))


def pack_bytes(weight: Tensor) -> Matrix:
    """weight [out, in] -> its panels in int8: of each row the nearest multiples of its largest number's 127th part."""
    columns, depth = weight.shape
    data = torch.zeros(_up(columns, PANEL) // PANEL, _up(depth, PANEL), PANEL, dtype=torch.int8)
    scales = torch.zeros(_up(columns, PANEL))
    for first in range(0, columns, AT_ONCE):
        rows = weight[first : first + AT_ONCE]
        steps = rows.abs().amax(1).float() / 127
        whole = (rows / steps.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round_()
        panels = F.pad(whole, (0, 0, 0, -len(rows) % PANEL)).view(-1, PANEL, depth)
        data[first // PANEL :][: len(panels), :depth] = panels.transpose(1, 2)
        scales[first : first + len(rows)] = steps
    return Matrix(columns, data, lib.Panels(data.data_ptr(), columns, depth, BYTES, scales.data_ptr()), scales)


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def matmul(x: Tensor, w: Matrix) -> Tensor:
    """x [T,in] -> x · Wᵀ [T,out]."""
    y = x.new_empty(x.shape[0], w.columns)
    call("matmul", x.data_ptr(), x.stride(0), x.shape[0], w.c, y.data_ptr(), w.columns, 0)
    return y


def order_of_sums() -> str:
    """Eight digits that differ where products of bf16 numbers may have other bits: what a product here comes out as."""
    at = torch.arange(48 * 96)
    numbers = ((at * 40_503 % 65_536) / 32_768 - 1) * 2.0 ** (at * 7 % 9 - 4)
    x, w = numbers[: 16 * 96].view(16, 96), numbers[16 * 96 :].view(32, 96)
    y = matmul(x, pack(w.bfloat16()))
    return hashlib.sha256(y.numpy().tobytes()).hexdigest()[:8]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """kernels.norm.rms_norm of x [T,D], D a multiple of 16."""
    y, (rows, width) = x.new_empty(x.shape), x.shape
    call("rms_norm", x.data_ptr(), x.stride(0), rows, width, weight.data_ptr(), eps, y.data_ptr(), y.stride(0))
    return y


@dataclass(frozen=True)
class Experts:
    """SwiGLU experts, the one that all rows share last: gate and up [I, D], down [D, I] of each."""

    matrices: tuple[tuple[Matrix, ...], ...]
    routed: int
    c: Any  # an array of lib.Expert

    @classmethod
    def of(
        cls, routed: list[tuple[Tensor, Tensor, Tensor]], shared: tuple[Tensor, Tensor, Tensor], pack: Pack = pack
    ) -> "Experts":
        packed = tuple(tuple(map(pack, expert)) for expert in [*routed, shared])
        array = (lib.Expert * len(packed))(*(lib.Expert(*(matrix.c for matrix in expert)) for expert in packed))
        return cls(packed, len(routed), array)


def set_threads(count: int) -> None:
    call("set_threads", count)


def call(name: str, *arguments: Any) -> None:
    """shiori_<name> of the library, its arguments as library.py has them."""
    library = lib.library()
    assert library, "no compiled kernels here"
    getattr(library, f"shiori_{name}")(*arguments)
