"""The two launches of KDA prefill under several configurations: for choosing one by hand, never at run time.

    python -m bench.h200.kda_prefill_tune --seconds 60 --out FILE
"""

import argparse
import json
import time
from pathlib import Path

import torch

import kernels.gpu.kda_prefill as module
from bench.h200.kda_prefill import Batch
from bench.h200.measuring import eager_ms, errors

CONFIGURATIONS = [{}, {"STAGES": 2}, {"COLUMNS": 64, "STAGES": 2}, {"COLUMNS": 16}, {"WARPS": 8}]
SHAPES = {
    "64k": ([65536], 32),
    "64x1024": ([1024] * 64, 32),
    "8k": ([8192], 32),
    "1k": ([1024], 32),
    "H=8 64k": ([65536], 8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    deadline, lines = time.monotonic() + arguments.seconds, []
    small, batches = Batch([257], 32), {name: Batch(*shape) for name, shape in SHAPES.items()}
    expected = small.expected()
    usual = {name: getattr(module, name) for name in ("COLUMNS", "STAGES", "WARPS")}
    for configuration in CONFIGURATIONS:
        if time.monotonic() > deadline:
            break
        configure(usual | configuration)
        line: dict[str, object] = dict(configuration)
        try:
            small.reset()
            line["rel_err"] = errors(small.ours(), expected)
            line |= {name: milliseconds(batch) for name, batch in batches.items()}
        except Exception as error:
            line["error"] = f"{type(error).__name__}: {str(error)[:200]}"
        lines.append(line)
        print(json.dumps(line), flush=True)
        arguments.out.write_text(json.dumps(lines, indent=1) + "\n")


def configure(values: dict[str, int]) -> None:
    for name, value in values.items():
        setattr(module, name, value)


def milliseconds(batch: Batch) -> list[float]:
    """Of factors and scan, each alone."""
    launches = next(module.launches(*batch.inputs(), None, None, torch.empty_like(batch.v)))
    for launch in launches:
        launch()
    return [round(eager_ms(launch, 0.03), 4) for launch in launches]


if __name__ == "__main__":
    main()
