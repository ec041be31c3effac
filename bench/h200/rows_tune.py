"""Settings of ``linear`` in kernels/gpu/rows.py, timed on the 48B's weights and compared with float64; torch beside it.

python -m bench.h200.rows_tune --out FILE [--seconds 25]
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.h200.measuring import COPY, errors, graph_ms
from kernels.gpu import early, rows

WEIGHTS = [(12576, 2304, True), (2304, 4096, False), (8192, 256, False), (163840, 2304, True)]  # [out, in], normed
SETTINGS: list[dict[str, Any]] = [
    {},
    {"OVERLAP": False},
    {"WARPS": 1},
    {"WARPS": 2},
    {"REGISTERS": None},
    {"HELD": 9},
    {"HELD": 36, "REGISTERS": None},
    {"REGISTERS": 96},
    {"LINES": 8},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=25)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    began, records = time.monotonic(), []
    for setting in SETTINGS:
        for shape in WEIGHTS:
            if time.monotonic() - began < arguments.seconds:
                records.append(tried(*shape, setting))
                print(json.dumps(records[-1]), flush=True)
                arguments.out.write_text(json.dumps(records, indent=1) + "\n")


def tried(out: int, depth: int, normed: bool, setting: dict[str, Any]) -> dict[str, Any]:
    """As many copies of the weight as the L2 cache cannot hold take turns."""
    times = max(1, min(60, int(3e8 // (2 * out * depth))))
    weights = [torch.randn(out, depth, device="cuda", dtype=torch.bfloat16) for _ in range(times)]
    norm = rows.Norm(torch.ones(depth, device="cuda", dtype=torch.bfloat16), 1e-5) if normed else None
    record: dict[str, Any] = {"weight": [out, depth], "setting": setting, "floor_us": 2e6 * out * depth / COPY}
    before = {name: getattr(early if name == "OVERLAP" else rows, name) for name in setting}
    put(setting)
    try:
        for count in (1, 8) if not setting else (1,):
            x = torch.randn(count, depth, device="cuda", dtype=torch.bfloat16)
            wide = F.rms_norm(x.double(), (depth,), eps=1e-5) if normed else x.double()
            record[f"rel_err T={count}"] = errors(rows.linear(x, weights[0], norm), (wide @ weights[0].double().T,))
            record[f"us T={count}"] = us(lambda w, x=x: rows.linear(x, w, norm), weights)
            if not setting:
                record[f"torch us T={count}"] = us(lambda w, x=x: F.linear(x, w), weights)
    except Exception as error:
        record["error"] = f"{type(error).__name__}: {str(error)[:200]}"
    put(before)
    return record


def put(setting: dict[str, Any]) -> None:
    for name, value in setting.items():
        setattr(early if name == "OVERLAP" else rows, name, value)


def us(one: Callable[[Tensor], Tensor], weights: list[Tensor]) -> float:
    return round(1e3 * graph_ms(lambda: [one(weight) for weight in weights]) / len(weights), 2)


if __name__ == "__main__":
    main()
