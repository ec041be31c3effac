"""Tokens per second of reading and of decoding, at several depths of the context, on this machine.

    python -m bench.prefill [--model lab/model] [--threads 2] [--depths 0 4096 16384] [--out bench/results/prefill.json]

Reading at depth d is timed over the next 512 tokens, decoding over 32; the best of ``--repeat`` runs is reported, by
the wall clock and by the process's own CPU time (which stands up to load by others). Depth is made by restoring random
latents of the right size: values do not change the cost.
"""

import argparse
import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from bench.where import where
from engine import Engine, EngineConfig, SamplingParams, load_model

READ, DECODE = 512, 32


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    started = time.perf_counter()
    model = load_model(arguments.model)
    load_s = time.perf_counter() - started
    engine = Engine(model, EngineConfig(max_slots=3, max_tokens=max(arguments.depths) + 4096))
    rows = []
    for depth in arguments.depths:
        rows.append({"depth": depth} | measure(engine, depth, arguments.repeat))
        print("  ".join(f"{name} {value:,.1f}" for name, value in rows[-1].items()), flush=True)
    result = {"model": str(arguments.model), "load_s": round(load_s, 3),
              "threads": arguments.threads, "contract": engine.describe().contract} | where()  # fmt: skip
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result | {"rows": rows}, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("lab/model"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--depths", type=int, nargs="+", default=[0, 4096, 16384])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("bench/results/prefill.json"))
    return parser.parse_args()


def measure(engine: Engine, depth: int, repeat: int) -> dict[str, float]:
    base = at_depth(engine, depth)
    ids = random.Random(0).choices(range(engine.model.config.vocab_size), k=READ)
    runs = [once(engine, base, ids) for _ in range(repeat)]
    engine.close(base)
    return {name: round(max(run[name] for run in runs), 1) for name in runs[0]}


def at_depth(engine: Engine, depth: int) -> int:
    """A sequence that stands at ``depth`` with random latents and an empty recurrent state: right in cost alone."""
    sequence = engine.open()
    if depth == 0:
        return sequence
    snapshot = replace(engine.snapshot(sequence), position=depth, digest=bytes([1] * 32))
    engine.close(sequence)
    layers, _, _, width = engine.pools.latents.shape
    made = torch.randn(layers, depth, width, dtype=engine.model.dtype, device=engine.model.device)
    return engine.restore(snapshot, made)


def once(engine: Engine, base: int, ids: list[int]) -> dict[str, float]:
    sequence = engine.fork(base)
    engine.read(sequence, ids)
    read_wall, read_cpu = clock(lambda: drain(engine))
    engine.generate(sequence, SamplingParams(max_tokens=DECODE))
    decode_wall, decode_cpu = clock(lambda: drain(engine))
    engine.close(sequence)
    return {
        "read_tok_s": READ / read_wall,
        "read_tok_per_cpu_s": READ / read_cpu,
        "decode_tok_s": DECODE / decode_wall,
        "decode_tok_per_cpu_s": DECODE / decode_cpu,
    }


def drain(engine: Engine) -> None:
    while engine.busy:
        engine.step()


def clock(work: Callable[[], None]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
