"""The compiled operations over torch tensors: fp32 on the CPU, rows may be strided, columns may not.

They trust their shapes: engine/compiled.py checks a model's sizes once, when it is built.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.cpu import library as lib

LANES, PANEL = 16, 32


@dataclass(frozen=True)
class Matrix:
    """W [out, in] in panels of 32 rows, in bf16 where that loses nothing."""

    columns: int
    data: Tensor  # keeps alive what ``c`` points to
    c: lib.Panels


def pack(weight: Tensor) -> Matrix:
    """weight [out, in] fp32 -> its panels."""
    columns, depth = weight.shape
    bf16 = bool((weight.bfloat16().float() == weight).all())
    data = torch.empty(-(-columns // PANEL) * PANEL * depth, dtype=torch.bfloat16 if bf16 else torch.float32)
    weight = weight.contiguous()
    _call("pack", weight.data_ptr(), columns, depth, bf16, data.data_ptr())
    return Matrix(columns, data, lib.Panels(data.data_ptr(), columns, depth, bf16))


def matmul(x: Tensor, w: Matrix) -> Tensor:
    """x [T,in] -> x · Wᵀ [T,out]."""
    y = x.new_empty(x.shape[0], w.columns)
    _call("matmul", x.data_ptr(), x.stride(0), x.shape[0], w.c, y.data_ptr(), w.columns, 0)
    return y


def add_matmul(y: Tensor, x: Tensor, w: Matrix) -> None:
    """y [T,out] += x · Wᵀ."""
    _call("matmul", x.data_ptr(), x.stride(0), x.shape[0], w.c, y.data_ptr(), y.stride(0), 1)


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor | None = None) -> Tensor:
    """kernels.norm.rms_norm of x [T,D], D a multiple of 16; ``out`` may be x."""
    y = torch.empty_like(x) if out is None else out
    rows, width = x.shape
    _call("rms_norm", x.data_ptr(), x.stride(0), rows, width, weight.data_ptr(), eps, y.data_ptr(), y.stride(0))
    return y


@dataclass(frozen=True)
class Router:
    """kernels.moe.route's arguments; D a multiple of 16."""

    weight: Tensor  # [E, D]
    bias: Tensor  # [E]
    top_k: int
    scale: float
    renormalize: bool
    bias_in_weights: bool

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [T,D] -> indices [T,k] int64, weights [T,k]. Of equal scores the lower number comes first."""
        rows, (count, width) = x.shape[0], self.weight.shape
        indices = torch.empty(rows, self.top_k, dtype=torch.int64)
        weights = x.new_empty(rows, self.top_k)
        _call(
            "route", x.data_ptr(), x.stride(0), rows, width, self.weight.data_ptr(), self.bias.data_ptr(), count,
            self.top_k, self.scale, self.renormalize, self.bias_in_weights, indices.data_ptr(), weights.data_ptr(),
        )  # fmt: skip
        return indices, weights


@dataclass(frozen=True)
class Experts:
    """SwiGLU experts, the one that all rows share last: gate and up [I, D], down [D, I] of each."""

    matrices: tuple[tuple[Matrix, Matrix, Matrix], ...]
    routed: int
    c: Any  # an array of lib.Expert

    @classmethod
    def of(cls, routed: list[tuple[Tensor, Tensor, Tensor]], shared: tuple[Tensor, Tensor, Tensor]) -> "Experts":
        packed = [tuple(map(pack, expert)) for expert in [*routed, shared]]
        array = (lib.Expert * len(packed))(*(lib.Expert(*(matrix.c for matrix in expert)) for expert in packed))
        return cls(tuple(packed), len(routed), array)  # type: ignore[arg-type]

    def add(self, y: Tensor, x: Tensor, chosen: tuple[Tensor, Tensor] | None) -> None:
        """y [T,D] += what the chosen experts and the shared one make of x [T,D]; chosen: see Router."""
        indices, weights = chosen or (None, None)
        _call(
            "experts", x.data_ptr(), x.stride(0), x.shape[0],
            None if indices is None else indices.data_ptr(), None if weights is None else weights.data_ptr(),
            0 if indices is None else indices.shape[1], self.c, self.routed, 1, y.data_ptr(), y.stride(0),
        )  # fmt: skip


@dataclass(frozen=True)
class KdaInside:
    """A KDA mixer between its projections: convolution, norms, gate, recurrence, output norm and gate."""

    heads: int
    head_dim: int  # a multiple of 16
    eps: float
    conv: Tensor  # [W, 3C]
    A_log: Tensor  # [H]
    dt_bias: Tensor  # [C]
    o_norm: Tensor  # [K]

    def __call__(
        self, raw: Tensor, gate: Tensor, beta: Tensor, z: Tensor, tail: Tensor, state: Tensor, o: Tensor
    ) -> None:
        """A sequence's rows. raw [T,3C]; gate, z, o [T,C]; beta [T,H] logits.

        tail [W-1,3C] and state [H,K,K] are advanced in place.
        """
        _call(
            "kda", raw.data_ptr(), raw.stride(0), gate.data_ptr(), gate.stride(0), beta.data_ptr(), beta.stride(0),
            z.data_ptr(), z.stride(0), self.conv.data_ptr(), self.A_log.data_ptr(), self.dt_bias.data_ptr(),
            self.o_norm.data_ptr(), self.eps, raw.shape[0], self.heads, self.head_dim, self.conv.shape[0],
            tail.data_ptr(), state.data_ptr(), o.data_ptr(), o.stride(0),
        )  # fmt: skip


@dataclass(frozen=True)
class MlaInside:
    """An MLA mixer between its projections: attention over paged latents."""

    heads: int
    nope: int
    rope: int
    rank: int
    value_dim: int
    kv_b: Tensor  # [h, N+V, R]

    def __call__(self, q: Tensor, pages: Tensor, table: Tensor, length: int, o: Tensor) -> None:
        """q [T,h·(N+r)] the last T of ``length`` tokens, their latents written; pages [P,page,R+r]; o [T,h·V]."""
        _call(
            "mla", q.data_ptr(), q.stride(0), pages.data_ptr(), pages.shape[1], table.data_ptr(), length,
            self.kv_b.data_ptr(), q.shape[0], self.heads, self.nope, self.rope, self.rank, self.value_dim,
            o.data_ptr(), o.stride(0),
        )  # fmt: skip


def set_threads(count: int) -> None:
    _call("set_threads", count)


def _call(name: str, *arguments: Any) -> None:
    library = lib.library()
    assert library, "no compiled kernels here"
    getattr(library, f"shiori_{name}")(*arguments)
