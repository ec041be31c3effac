"""Times configurations of the expert kernels of the 48B: how the constants of kernels/gpu/moe.py were found.

python -m bench.h200.moe_tune --out FILE [--rows 1 8 64 1024 8192] [--seconds 20]
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench.h200.measuring import eager_ms, graph_ms
from bench.h200.moe import GRAPH, WIDTH, Layer, chain, choices, randn
from kernels.gpu import moe as ours
from kernels.gpu.moe import Tiles

Trial = dict[str, Any]  # constants that are set otherwise
PAIRS: list[Trial] = [{}, {"HELD": 12}, {"HELD": 8}, {"WARPS": 2}, {"HELD": 16}, {"HELD": 36}]
FEW: list[Trial] = [{}, {"DESCRIBE": False}, *({"UP": {16: Tiles(*t)}} for t in [(64, 128, 4, 3), (64, 128, 4, 2)])]
MANY: list[Trial] = [
    {},
    {"DESCRIBE": False},
    *({"UP": {128: Tiles(*t)}} for t in [(128, 64, 8, 3), (64, 64, 8, 3), (64, 64, 4, 3)]),
    *({"DOWN": {128: Tiles(*t)}} for t in [(256, 64, 8, 4), (128, 64, 8, 3), (128, 64, 4, 3)]),
]
MEDIUM: list[Trial] = [
    {},
    {"DESCRIBE": False},
    *({"UP": {64: Tiles(*t)}} for t in [(64, 64, 4, 3), (128, 64, 8, 3), (64, 128, 4, 2)]),
    *({"DOWN": {64: Tiles(*t)}} for t in [(128, 64, 4, 3), (256, 64, 8, 3)]),
]
TRIALS = {1: PAIRS, 8: PAIRS, 8192: MANY, 1024: MEDIUM, 64: FEW}  # rows


@contextmanager
def constants(values: Trial) -> Iterator[None]:
    before = {name: getattr(ours, name) for name in values}
    for name, value in values.items():
        setattr(ours, name, before[name] | value if isinstance(value, dict) else value)
    yield
    for name, value in before.items():
        setattr(ours, name, value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=20, help="of trials; what is left out is said")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    layer, started, lines = Layer.make(), time.monotonic(), []
    for rows in arguments.rows:
        lines.append({"rows": rows, "kernels, us": profiled(layer, randn(rows, WIDTH), choices(rows))})
        print(json.dumps(lines[-1]), flush=True)
    for rows, trials in ((rows, TRIALS[rows]) for rows in arguments.rows):
        x, choice = randn(rows, WIDTH), choices(rows)
        for values in trials:
            if time.monotonic() - started > arguments.seconds:
                lines.append({"rows": rows, "left out": str(values)})
                continue
            with constants(values):
                lines.append({"rows": rows, "constants": str(values)} | trial(layer, x, choice))
            print(json.dumps(lines[-1]), flush=True)
            arguments.out.write_text(json.dumps(lines, indent=1) + "\n")
    arguments.out.write_text(json.dumps(lines, indent=1) + "\n")


def profiled(layer: Layer, x: Tensor, choice: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Microseconds of each kernel, the mean of ten runs in which nothing else touches the caches."""
    runs = 10
    ours.moe(x, *choice, layer.w13, layer.w2)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as taken:
        for _ in range(runs):
            ours.moe(x, *choice, layer.w13, layer.w2)
        torch.cuda.synchronize()
    return {e.key: round(e.device_time_total / runs, 2) for e in taken.key_averages() if e.device_time_total}


def trial(layer: Layer, x: Tensor, choice: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """One row is timed as in a model: layer after layer, each with experts of its own."""

    def run() -> Tensor:
        return ours.moe(x, *choice, layer.w13, layer.w2)

    try:
        wrong = error(layer, x, choice, run())
        if len(x) == 1:
            layers = chain()
            ms = graph_ms(lambda: [ours.moe(x, *c, layer.w13, layer.w2) for c in layers]) / len(layers)
        else:
            ms = graph_ms(run) if len(x) <= GRAPH else eager_ms(run, 0.1)
        return {"ms": ms, "error": wrong}
    except Exception as failure:
        return {"failure": f"{type(failure).__name__}: {str(failure)[:200]}"}


def error(layer: Layer, x: Tensor, choice: tuple[Tensor, Tensor], y: Tensor) -> float:
    """The largest relative error of three rows, against float64."""
    some = {0, len(x) // 2, len(x) - 1}
    expected = {t: one(layer, x, choice, t) for t in some}
    return max(float((y[t].double() - expected[t]).norm() / expected[t].norm()) for t in some)


def one(layer: Layer, x: Tensor, choice: tuple[Tensor, Tensor], t: int) -> Tensor:
    indices, weights = choice
    w1, w3, w2 = (w[indices[t].long()].double() for w in (layer.w1, layer.w3, layer.w2))
    row = x[t].double()
    return torch.einsum("kdi,ki,k->d", w2, F.silu(w1 @ row) * (w3 @ row), weights[t].double())


if __name__ == "__main__":
    main()
