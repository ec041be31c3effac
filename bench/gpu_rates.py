"""Reading and decoding with the 48B shape on one GPU, at several depths; and how far its modes differ in numbers.

    python -m bench.gpu_rates --out bench/results/gpu-rates.json [--depths 0 8192 …] [--profile FOLDER]

At each depth two steps of 8,192 tokens are read and 24 decoded, twice; the second time counts.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.cpu import at_depth
from bench.gpu_model import STEP, decode, engine_of, random_48b, read, some_ids
from engine import Engine
from engine.model import KimiLinear, Moe

DEPTHS = [0, 8192, 32_768, 131_072, 524_288, 1_024_000]
DECODE = 24


def main() -> None:
    arguments = parse()
    began = time.perf_counter()
    model = random_48b()
    torch.cuda.synchronize()
    result: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__,
                              "build_s": round(time.perf_counter() - began, 1), "weights_gb": gb()}  # fmt: skip
    result["numerics"] = numerics(model)
    print(json.dumps(result), flush=True)
    engine = engine_of(model, 1_048_576 + 4 * STEP)
    result["with_pools_gb"] = gb()
    warm(engine)
    result["read_128k"] = whole(engine, 131_072)
    print(json.dumps(result["read_128k"]), flush=True)
    result["rows"] = []
    for depth in arguments.depths:
        result["rows"].append({"depth": depth} | measure(engine, depth))
        print(json.dumps(result["rows"][-1]), flush=True)
    result["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
    result["contract"] = engine.describe().contract
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.profile:
        profiles(engine, arguments.profile)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    parser.add_argument("--out", type=Path, default=Path("bench/results/gpu-rates.json"))
    parser.add_argument("--profile", type=Path, help="a folder for the profiler's tables")
    return parser.parse_args()


def gb() -> float:
    return round(torch.cuda.memory_allocated() / 1e9, 1)


def warm(engine: Engine) -> None:
    sequence = engine.open()
    read(engine, sequence, some_ids(engine, 2 * STEP))
    decode(engine, sequence, 4)
    engine.close(sequence)


def whole(engine: Engine, tokens: int) -> dict[str, Any]:
    """A reading from nothing, end to end."""
    sequence, ids = engine.open(), some_ids(engine, tokens)
    began = time.perf_counter()
    seconds = read(engine, sequence, ids)
    wall = time.perf_counter() - began
    engine.close(sequence)
    return {"tokens": tokens, "s": round(wall, 3), "step_s": [round(s, 4) for s in seconds]}


def measure(engine: Engine, depth: int) -> dict[str, Any]:
    base, row = at_depth(engine, depth), {}
    for seed in range(2):
        sequence = engine.fork(base)
        took = read(engine, sequence, some_ids(engine, 2 * STEP, seed))
        _, each = decode(engine, sequence, DECODE)
        engine.close(sequence)
        row = {
            "read_tok_s": round(2 * STEP / sum(took)),
            "step_s": [round(s, 4) for s in took],
            "decode_ms": round(1e3 * statistics.median(each[1:]), 2),
            "decode_ms_each": [round(1e3 * s, 2) for s in each],
        }
    engine.close(base)
    return row


def numerics(model: KimiLinear) -> dict[str, Any]:
    """One reading of 2,500 tokens by engines that step differently, against whole steps.

    A random router has near ties everywhere: a rounding sends a token to another expert and all that follows differs.
    So the same is done with biases that choose the same experts for every token: what is left is rounding.
    """
    engine = engine_of(model, 32_768)
    found = {"routing free": modes(engine), "resumed": resumed(engine)}
    with fixed_routing(model):
        return found | {"routing fixed": modes(engine)}


def modes(engine: Engine) -> dict[str, Any]:
    model, first = engine.model, reading(engine)
    others = {
        "the same again": engine,
        "steps of 1024": engine_of(model, 32_768, step=1024),
        "deterministic": engine_of(model, 32_768, deterministic=True),
    }
    return {name: difference(first, reading(other)) for name, other in others.items()}


@contextmanager
def fixed_routing(model: KimiLinear) -> Iterator[None]:
    biases = [layer.ffn.bias for layer in model.layers if isinstance(layer.ffn, Moe)]
    before = [bias.clone() for bias in biases]
    for bias in biases:
        bias.normal_(0, 10)
    yield
    for bias, old in zip(biases, before, strict=True):
        bias.copy_(old)


def reading(engine: Engine) -> dict[str, Any]:
    sequence = engine.open()
    read(engine, sequence, some_ids(engine, 2500))
    end = {"kda": engine.snapshot(sequence).tensors["kda"], "latents": engine.latents(sequence, 0, 2500)}
    end["logits"] = engine._sequences[sequence].logits.cpu()
    end["greedy"] = decode(engine, sequence, 16)[0]
    engine.close(sequence)
    return end


def difference(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Relative Frobenius differences, and how many greedy tokens agree from the start."""
    found: dict[str, Any] = {
        name: float(f"{float((a[name].float() - b[name].float()).norm() / a[name].float().norm()):.2e}")
        for name in ("kda", "latents", "logits")
    }
    same = [x == y for x, y in zip(a["greedy"], b["greedy"], strict=True)]
    gap = a["logits"].topk(2).values
    return found | {"greedy_equal": [*same, False].index(False), "top_two_gap": round(float(gap[0] - gap[1]), 4)}


def resumed(engine: Engine) -> dict[str, bool]:
    """10,000 tokens, then a question: unbroken, and from a copy that went through the host's memory."""
    unbroken = engine.open()
    read(engine, unbroken, some_ids(engine, 10_000))
    restored = engine.restore(engine.snapshot(unbroken), engine.latents(unbroken, 0, 10_000))
    ends = []
    for sequence in (unbroken, restored):
        read(engine, sequence, some_ids(engine, 32, seed=1))
        logits, state = engine._sequences[sequence].logits, engine.snapshot(sequence).tensors
        ends.append((logits, state["kda"], state["conv"], decode(engine, sequence, 32)[0]))
        engine.close(sequence)
    same = [torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(*ends, strict=True)]
    return dict(zip(("logits", "kda", "conv", "greedy_32"), same, strict=True))


def profiles(engine: Engine, folder: Path) -> None:
    """Where a step of reading at 32k, a question and one decoded token at 128k spend their time."""
    for name, depth, run in (("read", 32_768, lambda s: read(engine, s, some_ids(engine, STEP))),
                             ("question", 131_072, lambda s: read(engine, s, some_ids(engine, 32))),
                             ("decode", 131_072, lambda s: decode(engine, s, 3))):  # fmt: skip
        sequence = at_depth(engine, depth)
        read(engine, sequence, some_ids(engine, 32))
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            run(sequence)
        engine.close(sequence)
        averages = seen.key_averages()
        for by in ("cuda", "cpu"):
            table = averages.table(sort_by=f"self_{by}_time_total", row_limit=45, max_name_column_width=60)
            (folder / f"profile-{name}-{by}.txt").write_text(table)
        kernels = [e for e in averages if e.device_type == torch.autograd.DeviceType.CUDA]
        kernels.sort(key=lambda e: -e.self_device_time_total)
        print(name, f"{sum(e.self_device_time_total for e in kernels) / 1e3:.1f} ms of kernels")
        for e in kernels[:16]:
            print(f"  {e.self_device_time_total / 1e3:8.2f} ms {e.count:5d} x {e.key[:90]}")


if __name__ == "__main__":
    main()
