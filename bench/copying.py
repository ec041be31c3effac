"""What holding quotes to a source costs: the index, and each decoded token, at a million tokens of source.

    OMP_NUM_THREADS=1 nice -n 10 python -m bench.copying [--model lab/model] [--out bench/results/copying.json]

The source is Python's standard library, tokenised. `host_us` is the constraint alone, a step of a quote (what may
follow, and the id taken): quotes that stand in the source, and the dearest places there are (the source's commonest
ids; a source that says one thing all along). `decode` is the engine's time for a token, a step without and a step with
an open quote by turns, in the case where a token takes least, a context of 64 tokens on one CPU thread; medians, and
their difference as a share. Times are the thread's own CPU time, since others work on the machine; `build_wall_s` is by
the clock.
"""

import argparse
import json
import random
import statistics
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.where import where
from engine import Copying, Engine, EngineConfig, Occurrences, SamplingParams, load_model
from engine.copying import LONGEST, Copier
from engine.model import KimiLinear
from services.inference.sources import letters_of
from services.inference.text import Tokenizer, load_tokenizer, special_id

SIZES = (140_000, 1_000_000)
QUOTES, LENGTH = 400, 24  # walked through on the host
DECODED, ROUNDS = 48, 15  # tokens of a decoding, decodings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("lab/model"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/copying.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(arguments.model)
    tokenizer = load_tokenizer(arguments.model, model.config.vocab_size)
    marks = special_id(tokenizer, "quote"), special_id(tokenizer, "/quote")
    ids, begins = library(tokenizer, max(SIZES)), letters_of(tokenizer).begins
    rows = [indexed(ids[:size], begins, marks) for size in SIZES]
    copying = Copying((Occurrences(ids, begins),), *marks, longest=LONGEST)
    found = {"rows": rows, "one_thing": one_thing(max(SIZES), marks), "decode": decode(model, copying)}
    for name, value in found.items():
        print(name, json.dumps(value, indent=1), flush=True)
    arguments.out.write_text(json.dumps({"command": "python -m bench.copying"} | where() | found, indent=1) + "\n")


CONFIG = EngineConfig(max_slots=4, max_tokens=4096)


def library(tokenizer: Tokenizer, size: int) -> np.ndarray:
    ids: list[int] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("**/*.py")):
        if "site-packages" not in path.parts and len(ids) < size:
            ids += tokenizer.encode(path.read_text(errors="replace"))
    assert len(ids) >= size, f"the standard library makes {len(ids)} tokens"
    return np.array(ids[:size], np.int32)


def indexed(ids: np.ndarray, begins: np.ndarray, marks: tuple[int, int]) -> dict[str, Any]:
    started, wall = time.thread_time(), time.perf_counter()
    source = Occurrences(ids, begins)
    built = {"build_s": round(time.thread_time() - started, 2), "build_wall_s": round(time.perf_counter() - wall, 2)}
    copying, pick = Copying((source,), *marks, longest=LONGEST), random.Random(1)
    starts = [pick.randrange(len(ids) - LENGTH) for _ in range(QUOTES)]
    steps = [t for at in starts if begins[ids[at]] for t in walk(copying, ids[at : at + LENGTH].tolist())]
    common = np.bincount(ids).argsort()[::-1][:20].tolist()
    dearest = [max(walk(copying, [token])[1:]) for token in common if begins[token]]
    return {"tokens": len(ids), **built, "mbytes": round(source.nbytes / 1e6, 1),
            "host_us": shares(steps), "host_us_behind_the_commonest_ids": round(max(dearest) * 1e6, 1)}  # fmt: skip


def walk(copying: Copying, quote: list[int]) -> list[float]:
    """Seconds of each step: the quote opens; each of its ids, and what may follow it."""
    copier, seconds = Copier(copying), []
    for token in [copying.open, *quote]:
        started = time.thread_time()
        copier.feed(token)
        copier.allowed()
        seconds.append(time.thread_time() - started)
    return seconds


def one_thing(size: int, marks: tuple[int, int]) -> dict[str, float]:
    copying = Copying((Occurrences(np.full(size, 20, np.int32)),), *marks, longest=LONGEST)
    return shares(walk(copying, [20] * LONGEST))


def shares(seconds: list[float]) -> dict[str, float]:
    """Microseconds."""
    ordered = sorted(seconds)
    at = {"median": 0.5, "p99": 0.99, "most": 1.0}
    named = {
        name: round(ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1e6, 1) for name, share in at.items()
    }
    return {"mean": round(statistics.mean(seconds) * 1e6, 1)} | named | {"steps": len(seconds)}


def decode(model: KimiLinear, copying: Copying) -> dict[str, Any]:
    """Two engines, a step of one and a step of the other, so that what else the machine does falls on both."""
    free, held = Engine(model, CONFIG), Engine(model, CONFIG)
    spent = np.array([pair for seed in range(ROUNDS) for pair in pairs(free, held, copying, seed)])
    without, within = np.median(spent, 0) * 1e3
    return {"ms_without": round(without, 3), "ms_with": round(within, 3), "share": round(within / without - 1, 4),
            "pairs": len(spent)}  # fmt: skip


def pairs(free: Engine, held: Engine, copying: Copying, seed: int) -> Iterator[tuple[float, float]]:
    """Seconds of a token, most likely first: among all; and, the quote being open, of what the source goes on with."""
    ids, params = random.Random(seed).choices(range(20, 4000), k=64), SamplingParams(max_tokens=DECODED)
    sequences = [read(engine, ids) for engine in (free, held)]
    free.generate(sequences[0], params, [copying.open])
    held.generate(sequences[1], params, [copying.open], copying)
    while free.busy and held.busy:
        yield timed(free), timed(held)
    for engine, sequence in zip((free, held), sequences, strict=True):
        engine.close(sequence)
        engine.step()


def read(engine: Engine, ids: list[int]) -> int:
    sequence = engine.open()
    engine.read(sequence, ids)
    while engine.busy:
        engine.step()
    return sequence


def timed(engine: Engine) -> float:
    started = time.thread_time()
    engine.step()
    return time.thread_time() - started


if __name__ == "__main__":
    main()
