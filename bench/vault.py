"""What the vault costs, with a private Redis on this machine.

    python -m bench.vault [grow] [saving] [--tokens 1048576] [--redis-binary PATH] [--out bench/results/vault.json]

grow     A reading of a million tokens in the shipped model's shape (random numbers), saved as the service saves it: a
rung
         for every 5 s of computing by the measured speeds, a bookmark every 8,192 tokens, swept now and then. Stored
         bytes against the latents' own, Redis' memory against the payload (INFO), time of a save, of a fork at every
         length, and of taking the whole up again.
saving   The shipped model reads the same text with and without rungs, in turns: what saving adds to prefill.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import redis

from bench.where import where

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

CHAPTER = 8192
RUNG_S = 5.0
SECONDS_A_TOKEN, SECONDS_A_TOKEN_AND_DEPTH = 1 / 1692, (1 / 940 - 1 / 1692) / 16384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["grow", "saving"])
    parser.add_argument("--tokens", type=int, default=1024 * 1024)
    parser.add_argument("--redis-binary", type=Path)
    parser.add_argument("--text", type=Path, default=Path("docs/samples/the-lamplighters-ledger.md"))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench/results/vault.json"))
    arguments = parser.parse_args()
    before = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for what in arguments.what:
        with tempfile.TemporaryDirectory() as folder, a_redis(Path(folder), arguments.redis_binary) as url:
            measured = grow(url, Path(folder), arguments) if what == "grow" else saving(url, Path(folder), arguments)
        before[what] = measured | where()
        arguments.out.write_text(json.dumps(before, indent=1) + "\n")
        print(json.dumps({name: value for name, value in measured.items() if name != "rows"}, indent=1))


@contextmanager
def a_redis(folder: Path, binary: Path | None) -> Iterator[str]:
    from services.local.system import redis_server

    socket = folder / "socket"
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    process = subprocess.Popen([str(binary or redis_server()), *options], stdout=subprocess.DEVNULL)
    try:
        while not socket.exists():
            time.sleep(0.02)
        yield f"unix://{socket}?db=0"
    finally:
        process.kill()
        process.wait()


# --- grow
# ---------------------------------------------------------------------------------------------------------------


def grow(url: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    from services.vault.manifest import Manifest
    from services.vault.metrics import Metrics
    from services.vault.sealing import page_tokens
    from services.vault.setup import VaultSettings, open_vault

    shape = Shape.of(Path("lab/model/config.json"))
    page = page_tokens(shape.row_bytes)
    settings = VaultSettings(redis_url=url, key_file=folder / "key", sweep_s=0, ring_mb=64)
    keeper = open_vault(settings, Metrics(), page * shape.row_bytes)
    client = redis.Redis.from_url(url)
    empty_bytes = client.info("memory")["used_memory"]
    vault = keeper.vault
    vault.heads.open("t", "s", "bench")
    head, manifest = vault.heads.begin("t", "s"), Manifest("bench", "bench", page_tokens=page)
    saves, rows, started = [], [], time.monotonic()
    for position, seconds, chapter in rungs(arguments.tokens):
        draft = shape.draft(manifest, position, seconds)
        begun = time.perf_counter()
        if chapter:
            head, manifest = vault.commit("t", head, draft, bookmark=f"c{position}")
        else:
            manifest = vault.save_draft("t", head, replace(draft, segments=head_segments(manifest)))
        saves.append(time.perf_counter() - begun)
        if (chapter and position & (position - 1) == 0) or position == arguments.tokens:
            keeper.collect("t")
            rows.append(measure(vault, client, shape, manifest, position, empty_bytes, saves))
            print(json.dumps(rows[-1]), flush=True)
        elif len(saves) % 200 == 0:
            keeper.collect("t")
            rate = position / (time.monotonic() - started)
            left = (arguments.tokens - position) / max(rate, 1)
            print(f"{position:,} tokens, {rate:,.0f}/s, about {left:.0f} s left", file=sys.stderr, flush=True)
    return rows[-1] | {"tokens": arguments.tokens, "redis": client.info()["redis_version"],
                       "allocator": client.info("memory")["mem_allocator"], "rows": rows}  # fmt: skip


def head_segments(manifest: Any) -> Any:
    return manifest.segments[: manifest.position // CHAPTER]


def rungs(tokens: int) -> Iterator[tuple[int, float, bool]]:
    """(position, seconds of computing until there, is it the end of a chapter)."""
    seconds, last = 0.0, 0.0
    for position in range(64, tokens + 1, 64):
        seconds += 64 * (SECONDS_A_TOKEN + position * SECONDS_A_TOKEN_AND_DEPTH)
        if position % CHAPTER == 0 or position == tokens or seconds - last >= RUNG_S:
            last = seconds
            yield position, seconds, position % CHAPTER == 0 or position == tokens


class Shape:
    """Random numbers in the form of a model's state."""

    def __init__(self, layers: int, width: int, tensors: tuple[tuple[str, str, tuple[int, ...]], ...]) -> None:
        from services.vault.manifest import Layout

        self.layout, self.layers, self.row_bytes = Layout((layers, width, "F32"), tensors), layers, layers * width * 4
        self._noise = np.random.default_rng(0)

    @staticmethod
    def of(path: Path) -> "Shape":
        config = json.loads(path.read_text())
        linear, heads = config["linear_attn_config"], config["linear_attn_config"]["num_heads"]
        layers, size = len(linear["kda_layers"]), linear["head_dim"]
        conv = (layers, linear["short_conv_kernel_size"] - 1, 3 * heads * size)
        width = config["kv_lora_rank"] + config["qk_rope_head_dim"]
        tensors = (("conv", "F32", conv), ("kda", "F32", (layers, heads, size, size)))
        return Shape(len(linear["full_attn_layers"]), width, tensors)

    def draft(self, base: Any, position: int, seconds: float) -> Any:
        from services.vault.drafts import Draft, Piece, State

        first = len(base.whole_pages()) * base.page_tokens
        start = (position - 1) // CHAPTER * CHAPTER
        digest = f"{position:064x}"
        latents = self._noise.bytes((position - first) * self.row_bytes)
        rows = np.frombuffer(latents, np.uint8).reshape(self.layers, position - first, -1)
        tensors = tuple(
            np.frombuffer(self._noise.bytes(4 * int(np.prod(s))), np.uint8) for _, _, s in self.layout.tensors
        )
        state = State(position, digest, first, rows, tensors, self.layout, ((position, digest),))
        piece = Piece(f"chapter {start // CHAPTER}", list(range(CHAPTER)), position - start)
        return Draft(base, base.segments[: start // CHAPTER], (piece,), state, seconds)


def measure(
    vault: Any, client: Any, shape: Shape, manifest: Any, position: int, empty: int, saves: list[float]
) -> dict[str, Any]:
    keys = [*client.scan_iter("*:blk:*"), *client.scan_iter("*:man:*")]
    stored = sum(client.strlen(key) for key in keys)
    used = client.info("memory")["used_memory"] - empty
    forks = []
    for n in range(300):
        begun = time.perf_counter()
        vault.heads.fork("t", "s", f"f{n}", "")
        forks.append(time.perf_counter() - begun)
    for n in range(300):
        vault.heads.delete("t", f"f{n}")
    vault.store.ring.forget([key.rsplit(b":", 1)[1] for key in keys])
    begun = time.perf_counter()
    vault.load("t", manifest, manifest.rungs[-1], lambda first, rows: None)
    load = time.perf_counter() - begun
    own = position * shape.row_bytes
    return {
        "position": position,
        "stored_to_latents": round(stored / own, 4),
        "redis_memory_to_payload": round(used / stored, 4),
        "rungs": len(manifest.rungs),
        "manifest_bytes": len(manifest.to_bytes()),
        "fork_ms_p50": ms(statistics.median(forks)),
        "fork_ms_p99": ms(sorted(forks)[int(0.99 * len(forks))]),
        "save_ms_median_of_last_20": ms(statistics.median(saves[-20:])),
        "take_up_s": round(load, 3),
        "take_up_GB_s": round(own / load / 1e9, 2),
    }


def ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


# --- saving
# -------------------------------------------------------------------------------------------------------------


def saving(url: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    from services.inference.driver import Stop
    from services.inference.service import load_service
    from services.inference.settings import InferenceSettings
    from services.vault.metrics import Metrics

    runs: dict[str, list[float]] = {"with": [], "without": []}
    inside = []
    text = arguments.text.read_text()
    for n in range(2 * arguments.repeat):
        kind = ("with", "without")[n % 2]
        redis.Redis.from_url(url).flushall()
        settings = InferenceSettings(
            redis_url=url, key_file=folder / "key", cold_url=f"file://{folder}/cold{n}", tokens=32768,
            rung_s=RUNG_S if kind == "with" else 1e9,
        )  # fmt: skip
        metrics = Metrics()
        service = load_service(settings, metrics)
        ids = service.tokenizer.encode(text)
        service.vault.open("t", "s", service.fingerprint)
        begun = time.perf_counter()
        with service.readings.writing("t", "s") as head, service.readings.reading("t", head, "x", ids, Stop()) as work:
            for _ in service.readings.read_segment(work, "x", ids, Stop()):
                pass
            runs[kind].append(time.perf_counter() - begun)
            service.readings.save(work)
        if kind == "with":
            inside.append(metrics.registry.get_sample_value("shiori_vault_save_seconds_sum") or 0.0)
        service.close()
        print(kind, f"{runs[kind][-1]:.2f} s, {len(ids)} tokens", flush=True)
    best = {kind: min(times) for kind, times in runs.items()}
    return {
        "tokens": len(ids),
        "seconds": runs,
        "overhead_of_best": round(best["with"] / best["without"] - 1, 4),
        "seconds_inside_save": inside,
        "share_inside_save": round(statistics.median(inside) / statistics.median(runs["with"]), 4),
    }


if __name__ == "__main__":
    main()
