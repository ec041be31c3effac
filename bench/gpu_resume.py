"""From a stored reading to the first token, with the 48B shape on one GPU and Redis on the same host.

    python -m bench.gpu_resume --redis-binary PATH [--redis-options "--io-threads 8"] [--connections 8] [--million]
                               [--out bench/results/gpu-resume.json]

A reading of 128k tokens is read and saved by the service's own code (services/inference/readings.py, services/vault),
with rungs on the way and without; then the engine is emptied, and a fresh vault takes it up, reads a question of 32
tokens and decodes one. The same for a million tokens: really read with --million, else made of random latents.
"""

import argparse
import json
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.gpu_model import STEP, decode, engine_of, random_48b, read, some_ids
from bench.gpu_vault import NEVER, TENANT, Bench, read_and_save, running, stages, store_random
from engine import Engine, SamplingParams, Token
from services.inference.driver import Driver, Stop

QUESTION = 32  # tokens


def main() -> None:
    arguments = parse()
    engine = engine_of(random_48b(), 2 * 1_048_576 + 8 * STEP)
    warm(engine)
    with running(arguments.redis_binary, arguments.redis_options.split()) as urls:
        driver = Driver(engine)
        tcp, unix = (Bench(driver, urls[name], arguments.connections) for name in ("tcp", "unix"))
        out = Results(arguments.out, {"device": torch.cuda.get_device_name(), "redis": arguments.redis_options,
                                      "connections": arguments.connections, "ring_mb": tcp.ring_mb})  # fmt: skip
        out.add("saving_128k", saving(tcp, 131_072))
        out.add("resume_128k", resumes(tcp, unix, "128k-never again"))
        out.add("resume_128k_by_connections", by_connections(tcp, "128k-never again"))
        out.add("resume_beside", {"busy": beside(tcp, "128k-never again")})
        session = "1m"
        if arguments.million:
            ids = some_ids(engine, 1_048_576 - 4 * QUESTION, seed=7)  # no prefix of which the vault has
            out.add("read_1m", read_and_save(tcp.readings(5.0), session, ids))
        else:
            out.add("store_1m", store_random(tcp, session, 1_048_576 - 4 * QUESTION))
        out.add("resume_1m", resumes(tcp, unix, session))
        driver.stop()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redis-binary", type=Path, required=True)
    parser.add_argument("--redis-options", default="--io-threads 8", help="of the server, one string")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--million", action="store_true", help="read a million tokens, some three minutes")
    parser.add_argument("--out", type=Path, default=Path("bench/results/gpu-resume.json"))
    return parser.parse_args()


class Results:
    """Written after every part: a call that is cut short has what it measured."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self._path, self._all = path, facts

    def add(self, name: str, value: Any) -> None:
        self._all[name] = value
        print(name, json.dumps({k: v for k, v in value.items() if k != "curve"}), flush=True)
        self._path.write_text(json.dumps(self._all, indent=1) + "\n")


def warm(engine: Engine) -> None:
    sequence = engine.open()
    read(engine, sequence, some_ids(engine, 2 * STEP))
    read(engine, sequence, some_ids(engine, QUESTION))
    decode(engine, sequence, 4)
    engine.close(sequence)


# --- saving -----------------------------------------------------------------------------------------------------------


def saving(bench: Bench, tokens: int) -> dict[str, Any]:
    """The same length of other tokens, with rungs never, every 5 s and every second."""
    rows = {}
    for seed, (name, rung_s) in enumerate({"never": NEVER, "5 s": 5.0, "1 s": 1.0, "never again": NEVER}.items()):
        ids = some_ids(bench.driver.engine, tokens, seed)
        rows[name] = read_and_save(bench.readings(rung_s), f"128k-{name}", ids)
    return rows


# --- resuming ---------------------------------------------------------------------------------------------------------


def resumes(tcp: Bench, unix: Bench, session: str) -> dict[str, Any]:
    """Over both transports, twice each, against the sequence that never left the device; and each stage alone."""
    driver, found = tcp.driver, {}
    head = tcp.readings().head(TENANT, session)
    witness = driver.borrow((TENANT, head.digest))
    assert witness is not None, "read and kept a moment ago"
    expected = ask(driver, witness)
    for name, bench in {"tcp": tcp, "tcp again": tcp, "unix": unix, "unix again": unix}.items():
        driver.forget(TENANT)
        found[name] = resume(bench, session, witness, expected)
    driver.call(lambda engine: engine.close(witness))
    driver.forget(TENANT)
    return found | {"stages_alone": stages(unix, session)}


def ask(driver: Driver, seq: int) -> list[int]:
    """The question, and 16 greedy tokens, on a fork."""
    fork = driver.call(lambda engine: engine.fork(seq))
    question = some_ids(driver.engine, QUESTION, seed=99)
    for _ in driver.run(lambda engine: engine.read(fork, question), Stop()):
        pass
    tokens = driver.run(lambda engine: engine.generate(fork, SamplingParams(max_tokens=16)), Stop())
    answer = [event.id for event in tokens if isinstance(event, Token)]
    driver.close(fork)
    return answer


def resume(bench: Bench, session: str, witness: int = 0, expected: list[int] | None = None) -> dict[str, Any]:
    """Seconds from the session's name to the first token, and where they went; then whether it is the same reading.

    What the driver reports of a step it reports at its end: the first token waits for the forward that feeds it.
    """
    readings, question = bench.readings(), some_ids(bench.driver.engine, QUESTION, seed=99)
    started = time.perf_counter()
    with readings.work(TENANT, readings.head(TENANT, session), Stop()) as work:
        restored = time.perf_counter()
        for _ in readings.read(work, "question", question, Stop()):
            pass
        asked = time.perf_counter()
        with closing(bench.driver.run(lambda e: e.generate(work.seq, SamplingParams(max_tokens=16)), Stop())) as events:
            answer, first = [], 0.0
            for event in events:
                first = first or time.perf_counter()
                answer += [event.id] if isinstance(event, Token) else []
        same = witness and bench.driver.call(lambda engine: same_latents(engine, work.seq, witness))
    readings.vault.store.close()
    return {"total_s": round(first - started, 3), "restore_s": round(restored - started, 3),
            "question_s": round(asked - restored, 3), "first_token_s": round(first - asked, 4),
            "resumed_tokens": work.resumed, "recomputed": work.recomputed,
            "same_16_tokens": answer == expected, "same_latents": same}  # fmt: skip


def by_connections(bench: Bench, session: str) -> dict[str, float]:
    """Seconds to the first token with so many connections to Redis, and threads that decrypt; the better of two."""
    found = {}
    for count in (2, 4, 8, 16):
        runs = []
        for _ in range(2):
            bench.driver.forget(TENANT)
            runs.append(resume(replace(bench, connections=count), session)["total_s"])
        found[str(count)] = min(runs)
    bench.driver.forget(TENANT)
    return found


def beside(bench: Bench, session: str) -> dict[str, Any]:
    """The same while another reading is under way: its steps are shared, its copies should wait for nobody."""
    driver, company = bench.driver, bench.driver.call(Engine.open)
    ids = some_ids(driver.engine, 262_144, seed=50)
    under_way = driver.run(lambda engine: engine.read(company, ids), Stop())
    next(under_way)
    found = resume(bench, session)
    driver.close(company)
    driver.forget(TENANT)
    return {name: found[name] for name in ("total_s", "restore_s", "question_s", "first_token_s")}


def same_latents(engine: Engine, seq: int, witness: int) -> bool:
    """Bit for bit, page by page, as far as the witness has full ones."""
    a, b, pool = engine._sequences[seq].pages, engine._sequences[witness], engine.pools.latents
    full = b.position // pool.shape[2]
    spans = [slice(i, min(i + 64, full)) for i in range(0, full, 64)]
    return all(torch.equal(pool[:, a[span]], pool[:, b.pages[span]]) for span in spans)


if __name__ == "__main__":
    main()
