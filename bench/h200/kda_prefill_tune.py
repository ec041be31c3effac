"""KDA prefill in several forms and configurations: for choosing one by hand, never at run time.

    python -m bench.h200.kda_prefill_tune --seconds 60 --out FILE
"""

import argparse
import importlib
import inspect
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import ModuleType

import torch

from bench.h200.kda_prefill import Batch
from bench.h200.measuring import eager_ms, errors, graph_ms

FORMS = "bench.h200.kda_prefill_forms."
SPLIT = "kernels.gpu.kda_prefill"  # norms in the loop
CANDIDATES = {
    "split 168": (SPLIT, {}),
    "split, column scales 168": (FORMS + "s6", {}),
    "split": (SPLIT, {"DECAYS": {"maxnreg": None}}),
    "split unrolled 168": (FORMS + "s3", {"DECAYS": {"maxnreg": 168}}),
    "split 168, apply 128": (SPLIT, {"APPLY": {"maxnreg": 128}}),
    "fused": (FORMS + "v4", {}),
    "split 8 warps 128": (SPLIT, {"DECAYS": {"maxnreg": 128, "num_warps": 8}}),
    "before": (FORMS + "v0", {}),
    "split, column scales": (FORMS + "s6", {"DECAYS": {"maxnreg": None}}),
    "split, column scales, unrolled": (FORMS + "s7", {"DECAYS": {"maxnreg": None}}),
    "split, norms first 168": (FORMS + "s2", {"DECAYS": {"maxnreg": 168}}),
    "split unrolled": (FORMS + "s3", {}),
    "split 128": (SPLIT, {"DECAYS": {"maxnreg": 128}}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--compile", help="of one candidate, and nothing else")
    arguments = parser.parse_args()
    if arguments.compile:
        return compile_one(arguments.compile)
    deadline, lines = time.monotonic() + arguments.seconds, []
    compile_all()
    small = [Batch([1024], 32), Batch([1024], 32, fast=True)]
    expected = [batch.expected() for batch in small]
    middle, large = Batch([8192], 32), Batch([65536], 32)
    for name in CANDIDATES:
        if time.monotonic() > deadline:
            break
        line: dict[str, object] = {"form": name}
        try:
            module = configured(name)
            line["rel_err"] = [
                errors(fresh(module, batch), right) for batch, right in zip(small, expected, strict=True)
            ]
            line["1k"], line["8k"] = (round(graph_ms(partial(run, module, batch)), 4) for batch in (small[0], middle))
            line["64k"] = round(eager_ms(partial(run, module, large), 0.05), 4)
            line["64k by launch"] = by_launch(module, large)
            line["1k by launch"] = by_launch(module, small[0])
        except Exception as error:
            line["error"] = f"{type(error).__name__}: {str(error)[:300]}"
        lines.append(line)
        report(lines, arguments.out)
    del large
    best = min((line for line in lines if "1k by launch" in line), key=lambda line: float(str(line["64k"])))
    module = configured(str(best["form"]))
    for name, batch in {"64x1024": Batch([1024] * 64, 32), "H=8 64k": Batch([65536], 8)}.items():
        lines.append({"form": best["form"], name: round(eager_ms(partial(run, module, batch), 0.05), 4)})
        report(lines, arguments.out)


def report(lines: list[dict[str, object]], out: Path | None) -> None:
    print(json.dumps(lines[-1]), flush=True)
    if out:
        out.write_text(json.dumps(lines, indent=1) + "\n")


def compile_all() -> None:
    """All at once, each in a process of its own; the disk cache keeps them."""
    command = [sys.executable, "-m", "bench.h200.kda_prefill_tune", "--compile"]
    for process in [subprocess.Popen([*command, name], stderr=subprocess.DEVNULL) for name in CANDIDATES]:
        process.wait()


def compile_one(name: str) -> None:
    run(configured(name), Batch([1024], 32))
    torch.cuda.synchronize()


def configured(name: str) -> ModuleType:
    path, settings = CANDIDATES[name]
    module = importlib.reload(importlib.import_module(path))
    for table, values in settings.items():
        getattr(module, table).update(values)
    return module


def run(module: ModuleType, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    return module.kda_prefill(*batch.inputs()), batch.pool


def fresh(module: ModuleType, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    batch.reset()
    return run(module, batch)


def by_launch(module: ModuleType, batch: Batch) -> list[float]:
    """Each on what the one before left in the scratch."""
    rest = [None] * (len(inspect.signature(module.launches).parameters) - len(batch.inputs()) - 1)
    launches = next(module.launches(*batch.inputs(), *rest, torch.empty_like(batch.v)))
    for launch in launches:
        launch()
    return [round(eager_ms(launch, 0.02), 4) for launch in launches]


if __name__ == "__main__":
    main()
