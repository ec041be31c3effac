"""Reading and decoding on this machine's processor, beside llama.cpp on the same weights, in one run.

    python -m bench.cpu [--model lab/model] [--llama-bench BUILD/bin/llama-bench --gguf A.gguf B.gguf]
                        [--documents 4096 16384 65536] [--depths 0 16384 65536] [--rounds 3] [--out RESULT.json]

A document is read from its first token to its last; 128 tokens are decoded behind a context of some depth (random
latents of the right size: values do not change the cost). Every measurement is a process of its own, its peak memory
noted, and the contenders take turns; medians are reported, with what share of the machine others had meanwhile. What
takes a minute is done once. GGUF files are made by bench/llama_cpp_convert.py (docs/llama-cpp.md).
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bench.where import where
from engine import Engine, EngineConfig, SamplingParams, best_dtype, load_model

DECODED, LONG, PLAIN_AT_MOST = 128, 40_000, 4096


@dataclass(frozen=True)
class Case:
    what: str  # "read" a document of so many tokens, "decode" at such a depth
    tokens: int


@dataclass(frozen=True)
class Contender:
    name: str
    command: list[str]
    plain: bool = False  # PyTorch's operations: slow, so measured at few tokens only

    def measure(self, case: Case) -> dict[str, float]:
        """{"tok_s", "peak_mb", "others": share of the processors' time that others had}."""
        before, words = jiffies(), self.words(case)
        child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert child.stdout
        told = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        if status:
            raise SystemExit(f"{' '.join(words)}: status {status}")
        others = others_share(before, jiffies(), used.ru_utime + used.ru_stime)
        return {"tok_s": rate(told), "peak_mb": used.ru_maxrss / 1024, "others": others}

    def words(self, case: Case) -> list[str]:
        if self.command[0] == sys.executable:
            return [*self.command, case.what, str(case.tokens)]
        if case.what == "read":
            return [*self.command, "-p", str(case.tokens), "-n", "0"]
        return [*self.command, "-p", "0", "-n", str(DECODED), "-d", str(case.tokens)]


def rate(told: str) -> float:
    """Of llama-bench's JSON, or of one number of our own."""
    found = json.loads(told)
    return float(found[0]["avg_ts"] if isinstance(found, list) else found)


def jiffies() -> tuple[list[int], float]:
    line = Path("/proc/stat").read_text().splitlines()[0]
    return [int(x) for x in line.split()[1:9]], time.monotonic()


def others_share(before: tuple[list[int], float], after: tuple[list[int], float], own_s: float) -> float:
    """Of the time of all processors: what was neither idle nor ours, stolen time included."""
    user, nice, system, _, _, irq, soft, steal = (b - a for a, b in zip(before[0], after[0], strict=True))
    busy = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
    return max(busy - own_s, 0.0) / ((after[1] - before[1]) * (os.cpu_count() or 1))


def main() -> None:
    arguments = parse()
    if arguments.one:
        print(one(arguments, Case(arguments.one[0], int(arguments.one[1]))))
        return
    cases = [Case("read", n) for n in arguments.documents] + [Case("decode", n) for n in arguments.depths]
    rows = []
    for case in cases:
        for contender, found in compare(case, contenders(arguments), arguments.rounds).items():
            rows.append(asdict(case) | {"contender": contender} | found)
            print("  ".join(f"{value:,.2f}" if isinstance(value, float) else str(value) for value in rows[-1].values()))
    result = {"model": str(arguments.model), "threads": arguments.threads} | where() | {"rows": rows}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("lab/model"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--documents", type=int, nargs="*", default=[4096, 16384])
    parser.add_argument("--depths", type=int, nargs="*", default=[0, 16384])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--llama-bench", type=Path)
    parser.add_argument("--gguf", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=Path("bench/results/cpu.json"))
    parser.add_argument("--dtype", default="float32", help=argparse.SUPPRESS)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # the child's part
    return parser.parse_args()


def contenders(arguments: argparse.Namespace) -> list[Contender]:
    common = ["--model", str(arguments.model), "--threads", str(arguments.threads)]
    ours = [sys.executable, "-m", "bench.cpu", *common]
    rounded = ["int8", "bfloat16"] if best_dtype(arguments.model) == torch.bfloat16 else []
    found = [
        *(Contender(f"shiori, {dtype}", [*ours, "--dtype", dtype, "--one"]) for dtype in [*rounded, "float32"]),
        Contender("shiori, PyTorch", [*ours, "--plain", "--one"], plain=True),
    ]
    for gguf in arguments.gguf:
        command = [str(arguments.llama_bench), "-m", str(gguf), "-t", str(arguments.threads), "-r", "1", "-o", "json"]
        command += ["--repack", "0"]  # in AMX's layout Q8_0 of this architecture stops at an assertion
        found.append(Contender(f"llama.cpp, {gguf.stem}", command))
    return found


def compare(case: Case, all_of_them: list[Contender], rounds: int) -> dict[str, dict[str, Any]]:
    those = [c for c in all_of_them if not c.plain or case.tokens <= PLAIN_AT_MOST]
    runs: dict[str, list[dict[str, float]]] = {contender.name: [] for contender in those}
    for _ in range(1 if case.tokens > LONG else rounds):
        for contender in those:
            runs[contender.name].append(contender.measure(case))
    return {
        name: {key: round(statistics.median(run[key] for run in found), 2) for key in found[0]} | {"n": len(found)}
        for name, found in runs.items()
    }


def one(arguments: argparse.Namespace, case: Case) -> float:
    torch.set_num_threads(arguments.threads)
    dtype = getattr(torch, arguments.dtype)
    model = load_model(arguments.model, dtype=dtype, compiled_kernels=not arguments.plain)
    engine = Engine(model, EngineConfig(max_slots=3, max_tokens=case.tokens + 4096))
    sequence = at_depth(engine, case.tokens if case.what == "decode" else 0)
    ids = random.Random(0).choices(range(model.config.vocab_size), k=case.tokens)
    warm = engine.fork(sequence)
    read(engine, warm, ids[:256] or [1])
    if case.what == "read":
        return case.tokens / read(engine, sequence, ids)
    read(engine, sequence, [1])
    return DECODED / decode(engine, sequence)


def read(engine: Engine, sequence: int, ids: list[int]) -> float:
    engine.read(sequence, ids)
    return drained(engine)


def decode(engine: Engine, sequence: int) -> float:
    engine.generate(sequence, SamplingParams(max_tokens=DECODED + 1))  # the last is not fed
    return drained(engine)


def drained(engine: Engine) -> float:
    started = time.perf_counter()
    while engine.busy:
        engine.step()
    return time.perf_counter() - started


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


if __name__ == "__main__":
    main()
