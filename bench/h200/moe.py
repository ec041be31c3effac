"""The 48B's router and experts, rows that choose at random, against torch's grouped products."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import kernels
from bench.h200.measuring import Case
from kernels.gpu import moe as ours

WIDTH, INNER, EXPERTS, TOP = 2304, 1024, 256, 8
ROWS = (1, 8, 64, 256, 1024, 8192)
GRAPH = 256  # rows; up to here the host would be what is measured


@dataclass(frozen=True)
class Layer:
    """Random weights. torch's products take w1 and w3 as matrices of their own."""

    gate: Tensor
    bias: Tensor
    w13: Tensor
    w1: Tensor
    w3: Tensor
    w2: Tensor

    @classmethod
    def make(cls) -> "Layer":
        w13, w2 = randn(EXPERTS, 2 * INNER, WIDTH, scale=WIDTH**-0.5), randn(EXPERTS, WIDTH, INNER, scale=INNER**-0.5)
        w1, w3 = (w.contiguous() for w in w13.chunk(2, 1))
        return cls(randn(EXPERTS, WIDTH, scale=0.02), randn(EXPERTS, scale=0.01), w13, w1, w3, w2)


def randn(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16).mul_(scale)


def choices(rows: int) -> tuple[Tensor, Tensor]:
    indices = torch.rand(rows, EXPERTS, device="cuda").topk(TOP).indices.int()
    weights = torch.rand(rows, TOP, device="cuda")
    return indices, weights * 2.446 / weights.sum(-1, keepdim=True)


def chain() -> list[tuple[Tensor, Tensor]]:
    """The choices of one row in 32 layers, no expert twice: no layer finds its experts in a cache, and only the first
    waits until what the benchmark wrote there has gone to memory."""
    indices = torch.randperm(EXPERTS, device="cuda").int().view(-1, 1, TOP)
    return [(i, choices(1)[1]) for i in indices]


def cases() -> Iterator[Case]:
    torch.manual_seed(0)
    layer = Layer.make()
    yield chain_case(layer, randn(1, WIDTH), chain())
    for rows in ROWS:
        yield route_case(layer, randn(rows, WIDTH))
    for rows in ROWS:
        yield moe_case(layer, randn(rows, WIDTH), *choices(rows))


def route_case(layer: Layer, x: Tensor) -> Case:
    """The weights alone are compared: of experts that are equal within rounding either may come first."""
    rows, how = len(x), (TOP, 2.446, True)
    return Case(
        op="route",
        case=f"T={rows}",
        bytes=2 * (x.numel() + layer.gate.numel()) + 8 * TOP * rows,
        flops=2 * rows * layer.gate.numel(),
        impls={
            "shiori": lambda: ours.route(x, layer.gate, layer.bias, *how)[1],
            "torch": lambda: kernels.route(x, layer.gate, layer.bias, *how)[1],
        },
        expected=lambda: (kernels.route(x.double(), layer.gate.double(), layer.bias.double(), *how)[1],),
        graph=rows <= GRAPH,
    )


def chain_case(layer: Layer, x: Tensor, choices: list[tuple[Tensor, Tensor]]) -> Case:
    """One row through 32 layers, a layer's time: as it is in decoding."""
    wide = [(i.long(), w) for i, w in choices]

    def ours_all() -> Tensor:
        return [ours.moe(x, *c, layer.w13, layer.w2) for c in choices][-1]

    def torch_all() -> Tensor:
        return [torch_grouped(layer, x, *c) for c in wide][-1]

    return Case(
        op="moe",
        case=f"T=1, one of {len(choices)} layers in a graph",
        bytes=2 * (TOP * 3 * WIDTH * INNER + 2 * x.numel()) + 8 * TOP,
        flops=2 * TOP * 3 * WIDTH * INNER,
        impls={"shiori": ours_all, "torch grouped_mm": torch_all},
        expected=lambda: (expected(layer, x, *choices[-1]),),
        graph=True,
        launches=len(choices),
    )


def moe_case(layer: Layer, x: Tensor, indices: Tensor, weights: Tensor) -> Case:
    rows, wide = len(x), indices.long()
    impls = {
        "shiori": lambda: ours.moe(x, indices, weights, layer.w13, layer.w2),
        "torch grouped_mm": lambda: torch_grouped(layer, x, wide, weights),
    }
    if rows in (1, 8, 64):  # beside the rule's choice
        impls["shiori pairs"] = lambda: ours.moe_pairs(x, indices, weights, layer.w13, layer.w2)
        impls["shiori grouped"] = lambda: ours.moe_grouped(x, indices, weights, layer.w13, layer.w2)
    return Case(
        op="moe",
        case=f"T={rows}",
        bytes=2 * (indices.unique().numel() * 3 * WIDTH * INNER + 2 * x.numel()) + 8 * indices.numel(),
        flops=2 * indices.numel() * 3 * WIDTH * INNER,
        impls=impls,
        expected=lambda: (expected(layer, x, indices, weights),),
        graph=rows <= GRAPH,
    )


def torch_grouped(layer: Layer, x: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """Three products over rows sorted by expert; a row's experts are summed in fp32."""
    rows, top = indices.shape
    chosen, order = indices.flatten().sort(stable=True)
    ends = torch.searchsorted(chosen, torch.arange(EXPERTS, device=x.device), right=True, out_int32=True)
    sorted_rows = x[order // top]
    hidden = F.silu(F.grouped_mm(sorted_rows, layer.w1.transpose(1, 2), offs=ends))
    hidden.mul_(F.grouped_mm(sorted_rows, layer.w3.transpose(1, 2), offs=ends))
    hidden.mul_(weights.flatten()[order, None].to(hidden.dtype))  # of one dtype: else torch takes thrice the time
    out = F.grouped_mm(hidden, layer.w2.transpose(1, 2), offs=ends)
    return out[order.argsort()].view(rows, top, -1).sum(1, dtype=torch.float32).to(x.dtype)


def expected(layer: Layer, x: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """By the definition in float64, expert by expert."""
    y = torch.zeros(x.shape, device=x.device, dtype=torch.float64)
    for e in indices.unique().tolist():
        rows, place = (indices == e).nonzero(as_tuple=True)
        w1, w3, w2 = (w[e].double() for w in (layer.w1, layer.w3, layer.w2))
        hidden = F.silu(x[rows].double() @ w1.T) * (x[rows].double() @ w3.T)
        y.index_add_(0, rows, hidden @ w2.T * weights[rows, place, None].double())
    return y
