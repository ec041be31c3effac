"""The two launches of KDA prefill under several configurations: for choosing one by hand, never at run time.

    python -m bench.h200.kda_prefill_tune --seconds 120 --out FILE
"""

import argparse
import json
import time
from pathlib import Path

import torch

import kernels.gpu.kda_prefill as module
from bench.h200.kda_prefill import Batch
from bench.h200.measuring import eager_ms, errors

FACTORS = [
    {"slice_k": slice_k, "slice_v": slice_v, "num_warps": warps, "maxnreg": registers}
    for slice_k, slice_v, warps, registers in [
        (32, 64, 4, 168), (32, 64, 4, None), (32, 64, 4, 128), (32, 32, 4, 168), (32, 128, 4, 168), (16, 64, 4, 168),
        (16, 64, 4, 128), (64, 64, 4, None), (32, 64, 8, 128), (64, 64, 8, None),
    ]
]  # fmt: skip
SCAN = [
    {"columns": columns, "num_warps": warps, "num_stages": stages}
    for columns, warps, stages in [(32, 4, 3), (32, 4, 2), (16, 4, 3), (16, 4, 4), (64, 4, 2), (64, 8, 2), (32, 8, 3),
                                   (128, 8, 2)]
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    deadline, lines = time.monotonic() + arguments.seconds, []
    short = Batch([257], 4)
    expected = short.expected()
    shapes = {"1k": ([1024], 32), "64k": ([65536], 32), "8k": ([8192], 32), "64x1024": ([1024] * 64, 32), "H=8 64k": ([65536], 8)}
    batches = {name: Batch(*shape) for name, shape in shapes.items()}
    plan = [("FACTORS", c) for c in FACTORS] + [("SCAN", c) for c in SCAN]
    for launch, configuration in plan:
        if time.monotonic() > deadline:
            break
        line: dict[str, object] = {"launch": launch} | configuration
        kept = getattr(module, launch)
        setattr(module, launch, kept | configuration)
        try:
            short.reset()
            line["rel_err"] = errors(short.ours(), expected)
            for name, batch in batches.items():
                line[name] = milliseconds(batch, launch)
        except Exception as error:
            line["error"] = f"{type(error).__name__}: {str(error)[:200]}"
        setattr(module, launch, kept)
        lines.append(line)
        print(json.dumps(line), flush=True)
        arguments.out.write_text(json.dumps(lines, indent=1) + "\n")


def milliseconds(batch: Batch, launch: str) -> float:
    """Of one of the two launches, on the factors that lie in the scratch."""
    o = torch.empty_like(batch.v)
    factors, scan = next(module.launches(*batch.inputs(), None, o))
    factors()
    torch.cuda.synchronize()
    return round(eager_ms(factors if launch == "FACTORS" else scan, 0.1), 4)


if __name__ == "__main__":
    main()
