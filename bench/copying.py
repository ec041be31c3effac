"""What holding quotes to a source costs: the index, and each decoded token, at a million tokens of source.

    OMP_NUM_THREADS=1 nice -n 10 python -m bench.copying [--model lab/model] [--out bench/results/copying.json]

The source is Python's standard library, tokenised. `host_us` is the constraint alone, a step of a quote (what may
follow, and the id taken): quotes that stand in the source, and the dearest places there are (the source's commonest
ids; a source that says one thing all along). `decode` is the engine's time for a token, by turns without and with an
open quote, in the case where a token takes least, a context of 64 tokens on one CPU thread. Times are the thread's own
CPU time, since others work on the machine; `build_wall_s` is by the clock.
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

from bench.prefill import where
from engine import Copying, Engine, EngineConfig, Occurrences, SamplingParams, load_model
from engine.copying import LONGEST, Copier
from services.inference.sources import letters_of
from services.inference.text import Tokenizer, load_tokenizer, special_id

SIZES = (140_000, 1_000_000)
QUOTES, LENGTH = 400, 24  # walked through on the host
DECODED, ROUNDS = 48, 15  # tokens of a decoding, pairs of decodings


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
    found = {"rows": rows, "one_thing": one_thing(max(SIZES), marks), "decode": decode(Engine(model, CONFIG), copying)}
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


def decode(engine: Engine, copying: Copying) -> dict[str, Any]:
    """Pairs one after another, so that what else the machine does falls on both."""
    base = engine.open()
    engine.read(base, random.Random(0).choices(range(20, 4000), k=64))
    list(stepped(engine))
    once(engine, base, copying, True, 0)  # warm
    pairs = [(once(engine, base, copying, False, n), once(engine, base, copying, True, n)) for n in range(ROUNDS)]
    free, held = (min(seconds) for seconds in zip(*pairs, strict=True))
    share = statistics.median(after / before - 1 for before, after in pairs)
    return {"ms_without": round(free * 1e3, 2), "ms_with": round(held * 1e3, 2), "tokens": DECODED, "pairs": ROUNDS,
            "dearer_by_median_of_pairs": round(share, 4)}  # fmt: skip


def once(engine: Engine, base: int, copying: Copying, held: bool, seed: int) -> float:
    """Seconds a token behind the opening mark: drawn from all, or from what the source goes on with."""
    fork = engine.fork(base)
    params = SamplingParams(temperature=1.0, seed=seed, max_tokens=DECODED)
    engine.generate(fork, params, [copying.open], copying if held else None)
    started = time.thread_time()
    tokens = sum(1 for _ in stepped(engine))
    spent = time.thread_time() - started
    engine.close(fork)
    return spent / tokens


def stepped(engine: Engine) -> Iterator[None]:
    while engine.busy:
        engine.step()
        yield


if __name__ == "__main__":
    main()
