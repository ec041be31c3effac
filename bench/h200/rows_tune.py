"""Settings of ``linear`` in kernels/gpu/rows.py, timed on the 48B's weights and compared with float64; torch beside it.

python -m bench.h200.rows_tune --out FILE [--seconds 20]
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

WEIGHTS = [(12576, 2304), (2304, 4096), (8192, 256), (163840, 2304)]  # [out, in]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"LINEAR": (32, 128, 2, 5)},
    {"L2": 0},
    {"L2": 40e6},
    {"THIN": (32, 128, 2, 5)},
    {"THIN": (16, 128, 1, 5)},
    {"OVERLAP": False},
    {"LINEAR": (32, 64, 2, 7)},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    began, records = time.monotonic(), []
    for setting in SETTINGS:
        for shape in WEIGHTS:
            if time.monotonic() - began < arguments.seconds:
                records.append(tried(*shape, setting))
                print(json.dumps(records[-1]), flush=True)
                arguments.out.write_text(json.dumps(records, indent=1) + "\n")


def tried(out: int, depth: int, setting: dict[str, Any]) -> dict[str, Any]:
    """As many copies of the weight as the L2 cache cannot hold take turns."""
    times = max(1, min(60, int(3e8 // (2 * out * depth))))
    weights = [torch.randn(out, depth, device="cuda", dtype=torch.bfloat16) for _ in range(times)]
    record: dict[str, Any] = {"weight": [out, depth], "setting": setting, "floor_us": 2e6 * out * depth / COPY}
    before = {name: getattr(early if name == "OVERLAP" else rows, name) for name in setting}
    put(setting)
    try:
        for count in (1, 8):
            x = torch.randn(count, depth, device="cuda", dtype=torch.bfloat16)
            record[f"rel_err T={count}"] = errors(rows.linear(x, weights[0]), (x.double() @ weights[0].double().T,))
            record[f"us T={count}"] = us(lambda w, x=x: rows.linear(x, w), weights)
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
