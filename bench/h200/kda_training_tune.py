"""The launches of KDA training under several configurations: for choosing one by hand, never at run time.

python -m bench.h200.kda_training_tune --seconds 60 --out FILE
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

import kernels.gpu.kda_backward as backward
import kernels.gpu.kda_forward as forward
from bench.h200.kda_training import implementations, make, step
from bench.h200.measuring import eager_ms

BATCH, TOKENS, HEADS = 8, 4096, 32
PLAN = [
    (forward, "FACTORS", {}),  # as it is
    (backward, "KEYS", {"width": 32, "num_warps": 4}),
    (backward, "KEYS", {"part": 32}),
    (backward, "KEYS", {"num_warps": 4}),
    (forward, "FACTORS", {"num_warps": 8}),
    (forward, "FACTORS", {"part": 32}),
    (backward, "VALUES", {"part": 64}),
    (backward, "VALUES", {"part": 64, "num_warps": 8}),
    (forward, "SCAN", {"num_stages": 1}),
    (backward, "SCAN", {"num_stages": 1}),
    (forward, "SCAN", {"part": 64, "num_warps": 8}),
    (backward, "SCAN", {"part": 64, "num_warps": 8}),
    (forward, "SCAN", {"part": 64, "num_stages": 2}),
    (backward, "SCAN", {"part": 64, "num_stages": 2}),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    deadline, lines = time.monotonic() + arguments.seconds, []
    ours = implementations(BATCH, TOKENS)["ours"]
    runs = {gate: step(ours, *make(BATCH * TOKENS, HEADS, gate), outputs=8) for gate in ("48B", "shut")}
    for module, launch, changed in PLAN:
        if time.monotonic() > deadline:
            break
        line: dict[str, object] = {"module": module.__name__, "launch": launch} | changed
        kept = getattr(module, launch)
        setattr(module, launch, kept | changed)
        try:
            for gate, run in runs.items():
                line[f"{gate} ms"] = round(eager_ms(run, 0.1), 3)
                line[f"{gate} kernels, us"] = by_kernel(run)
        except Exception as error:
            line["error"] = f"{type(error).__name__}: {str(error)[:200]}"
        setattr(module, launch, kept)
        lines.append(line)
        print(json.dumps(line), flush=True)
        arguments.out.write_text(json.dumps(lines, indent=1) + "\n")


def by_kernel(run, times: int = 3) -> dict[str, float]:
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(times):
            run()
        torch.cuda.synchronize()
    found = {e.key[:60]: round(e.self_device_time_total / times, 1) for e in seen.key_averages()}
    return dict(sorted(found.items(), key=lambda item: -item[1])[:10])


if __name__ == "__main__":
    main()
