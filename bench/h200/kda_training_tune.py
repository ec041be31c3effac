"""The six launches of KDA training under several configurations: for choosing one by hand, never at run time.

    python -m bench.h200.kda_training_tune --seconds 40 --out FILE

Run n takes the n-th configuration of every launch, so a launch's time is its own and the errors are the run's.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from triton.runtime.jit import JITFunction

import kernels.gpu.kda_backward as backward
import kernels.gpu.kda_forward as forward
from bench.h200.kda_training import LONG, SHORT, definition, make, only_compiling, ours, step
from bench.h200.measuring import errors

SCANS: list[dict[str, Any]] = [{}, {"part": 32}, {"part": 128, "num_warps": 8, "num_stages": 2}, {"num_stages": 2}]
PLAN: dict[tuple[Any, str], list[dict[str, Any]]] = {  # the first is what the kernels have
    (forward, "NORMS"): [{}, {"num_warps": 4, "maxnreg": 255}],
    (forward, "FACTORS"): [{}],
    (forward, "SCAN"): SCANS,
    (backward, "SCAN"): SCANS,
    (backward, "VALUES"): [{}, {"num_stages": 1}, {"part": 32}],
    (backward, "KEYS"): [{}, {"maxnreg": 255}, {"num_stages": 1}, {"num_warps": 4, "maxnreg": 255}],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    deadline, lines = time.monotonic() + arguments.seconds, []
    short, (long, shut) = run(*SHORT), (run(*LONG[:3], gate) for gate in ("48B", "shut"))
    expected = definition(*make(SHORT[0] * SHORT[1], *SHORT[2:]), SHORT[0])
    rounds = list(zip_longest(*PLAN.values(), fillvalue=None))
    with only_compiling():
        for options in rounds:
            with configured(options):
                long()
    for options in rounds:
        if time.monotonic() > deadline:
            break
        changed = {f"{m.__name__}.{name}": x for (m, name), x in zip(PLAN, options, strict=True) if x}
        line: dict[str, Any] = {"changed": changed}
        with configured(options):
            try:
                line |= {"rel_err": errors(short(), expected), "48B us": launches(long), "shut us": launches(shut)}
            except Exception as error:
                line["error"] = f"{type(error).__name__}: {str(error)[:200]}"
        lines.append(line)
        print(json.dumps(line), flush=True)
        arguments.out.write_text(json.dumps(lines, indent=1) + "\n")


def run(batch: int, tokens: int, heads: int, gate: str):
    return step(ours(batch, tokens), *make(batch * tokens, heads, gate), outputs=8)


@contextmanager
def configured(options: tuple[dict[str, Any] | None, ...]) -> Iterator[None]:
    kept = {place: getattr(*place) for place in PLAN}
    for (module, name), changed in zip(PLAN, options, strict=True):
        setattr(module, name, kept[module, name] | (changed or {}))
    yield
    for (module, name), value in kept.items():
        setattr(module, name, value)


def launches(call, times: int = 5) -> dict[str, float]:
    """Microseconds of each launch, medians; "all": from the first to the end of the last, with torch's own."""
    marks: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = defaultdict(list)
    launch = JITFunction.run

    def timed(self, *given, **named):
        with marked(marks[f"{self.fn.__module__.rpartition('_')[2]}{self.fn.__name__}"]):
            return launch(self, *given, **named)

    call()
    JITFunction.run = timed
    for _ in range(times):
        with marked(marks["all"]):
            call()
    JITFunction.run = launch
    torch.cuda.synchronize()
    return {name: round(1e3 * statistics.median(a.elapsed_time(b) for a, b in x), 1) for name, x in marks.items()}


@contextmanager
def marked(marks: list[tuple[torch.cuda.Event, torch.cuda.Event]]) -> Iterator[None]:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    yield
    stop.record()
    marks.append((start, stop))


if __name__ == "__main__":
    main()
