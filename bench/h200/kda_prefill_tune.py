"""The two launches of KDA prefill under several configurations: for choosing one by hand, never at run time.

python -m bench.h200.kda_prefill_tune --seconds 120 --out FILE
"""

import argparse
import copy
import json
import time
from pathlib import Path

import torch

import kernels.gpu.kda_prefill as module
from bench.h200.kda_prefill import Batch
from bench.h200.measuring import eager_ms, errors

FACTORS = [
    {"slice_k": slice_k, "slice_v": slice_v, "num_warps": 4}
    for slice_k, slice_v in [(64, 64), (64, 128), (32, 64), (32, 128)]
]
SCAN = [
    {"columns": columns, "num_warps": warps, "num_stages": stages}
    for columns, warps, stages in [
        (32, 4, 3), (32, 4, 2), (32, 4, 1), (16, 4, 3), (16, 4, 1), (64, 4, 2), (64, 8, 2), (64, 8, 1), (64, 8, 3),
        (128, 8, 1), (128, 8, 2), (32, 8, 3),
    ]
]  # fmt: skip
SHAPES = {
    "1k": ([1024], 32),
    "8k": ([8192], 32),
    "64k": ([65536], 32),
    "64x1024": ([1024] * 64, 32),
    "H=8 64k": ([65536], 8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    deadline, lines = time.monotonic() + arguments.seconds, []
    short, batches = Batch([257], 4), {name: Batch(*shape) for name, shape in SHAPES.items()}
    expected = short.expected()
    for launch, configuration in [*(("factors", c) for c in FACTORS), *(("scan", c) for c in SCAN)]:
        if time.monotonic() > deadline:
            break
        line: dict[str, object] = {"launch": launch} | configuration
        kept = {name: copy.deepcopy(getattr(module, name)) for name in ("FACTORS", "SCAN")}
        try:
            configure(launch, configuration)
            short.reset()
            line["rel_err"] = errors(short.ours(), expected)
            for name, batch in batches.items():
                line[name] = milliseconds(batch, launch)
        except Exception as error:
            line["error"] = f"{type(error).__name__}: {str(error)[:200]}"
        for name, value in kept.items():
            setattr(module, name, value)
        lines.append(line)
        print(json.dumps(line), flush=True)
        arguments.out.write_text(json.dumps(lines, indent=1) + "\n")


def configure(launch: str, configuration: dict) -> None:
    if launch == "factors":
        module.FACTORS.update(configuration)
    if launch == "scan":
        for one in module.SCAN.values():
            one.update(configuration)


def milliseconds(batch: Batch, launch: str) -> float:
    """Of one of the two launches, on the factors that lie in the scratch."""
    o = torch.empty_like(batch.v)
    factors, scan = next(module.launches(*batch.inputs(), None, o))
    factors()
    torch.cuda.synchronize()
    return round(eager_ms(factors if launch == "factors" else scan, 0.05), 4)


if __name__ == "__main__":
    main()
