"""Tiles of ``linear`` in kernels/gpu/rows.py, timed on the 48B's weights and compared with float64; torch beside them.

python -m bench.h200.rows_tune --out FILE
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.h200.measuring import COPY, errors, graph_ms
from kernels.gpu import rows

WEIGHTS = [(20512, 2304), (2304, 4096), (163840, 2304), (2304, 9216)]  # [out, in]
TILES = [
    (16, 128, 1, 6),
    (16, 128, 1, 7),
    (16, 256, 1, 3),
    (16, 256, 1, 4),
    (16, 256, 2, 4),
    (32, 128, 2, 5),
    (32, 64, 2, 7),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.manual_seed(0)
    records = [record for shape in WEIGHTS for record in tried(*shape)]
    out.write_text(json.dumps(records, indent=1) + "\n")


def tried(out: int, depth: int) -> list[dict[str, Any]]:
    """As many copies of the weight as the L2 cache cannot hold take turns."""
    times = max(1, int(3e8 // (2 * out * depth)))
    weights = [torch.randn(out, depth, device="cuda", dtype=torch.bfloat16) for _ in range(times)]
    records = []
    for tile in [None, *TILES]:
        record: dict[str, Any] = {"weight": [out, depth], "tile": tile, "floor_us": 2e6 * out * depth / COPY}
        for count in (1, 16):
            x = torch.randn(count, depth, device="cuda", dtype=torch.bfloat16)
            try:
                rows.LINEAR = tile or rows.LINEAR
                one = rows.linear if tile else F.linear
                record[f"rel_err T={count}"] = errors(one(x, weights[0]), (x.double() @ weights[0].double().T,))
                record[f"us T={count}"] = round(1e3 * graph_ms(lambda one=one, x=x: every(one, x, weights)) / times, 2)
            except Exception as error:
                record["error"] = f"{type(error).__name__}: {str(error)[:200]}"
        print(json.dumps(record), flush=True)
        records.append(record)
    return records


def every(one: Any, x: Tensor, weights: list[Tensor]) -> None:
    for weight in weights:
        one(x, weight)


if __name__ == "__main__":
    main()
