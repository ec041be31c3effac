"""The vault as the service has it, over the 48B shape on a GPU: stored, and each stage of taking it up alone."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from prometheus_client import CollectorRegistry

from bench.cpu import at_depth
from bench.gpu_model import some_ids
from engine import Engine
from services.inference.driver import Driver, Stop
from services.inference.readings import Readings
from services.vault.connections import Connections
from services.vault.drafts import Draft, Piece
from services.vault.keeper import Keeper
from services.vault.manifest import Manifest
from services.vault.metrics import Metrics
from services.vault.sealing import MAX_VALUE, opened, page_tokens
from services.vault.setup import VaultSettings, connect, open_vault
from services.vault.store import block_key

TENANT, NEVER = "bench", 1e9


@dataclass(frozen=True)
class Bench:
    driver: Driver
    url: str
    connections: int
    ring_mb: int = 512

    def readings(self, rung_s: float = NEVER) -> Readings:
        """A vault that has never seen anything, as in a process that has just started."""
        info = self.driver.call(Engine.describe)
        row_bytes = info.page_bytes // info.page_tokens
        empty = Manifest("bench", "bench", page_tokens=page_tokens(row_bytes))
        settings = VaultSettings(self.url, key="5a" * 32, ring_mb=self.ring_mb, connections=self.connections, sweep_s=0)
        pinned = info.device != "cpu"
        keeper: Keeper = open_vault(
            settings, Metrics(CollectorRegistry()), empty.page_tokens * row_bytes,
            lambda size: torch.empty(size, dtype=torch.uint8, pin_memory=pinned).numpy(),
        )  # fmt: skip
        return Readings(self.driver, keeper.vault, empty, rung_s, 0)


@contextmanager
def running(binary: Path, options: list[str]) -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        socket = f"{folder}/socket"
        command = [str(binary), "--port", "6397", "--unixsocket", socket, "--dir", folder, "--save", ""]
        server = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
        try:
            while not Path(socket).exists():
                time.sleep(0.05)
            yield {"tcp": "redis://127.0.0.1:6397/0", "unix": f"unix://{socket}?db=0"}
        finally:
            server.terminate()
            server.wait(60)


def read_and_save(readings: Readings, session: str, ids: list[int]) -> dict[str, Any]:
    """As the service does for a Read: seconds of reading, with the rungs on its way, and of the last save."""
    readings.vault.open(TENANT, session, readings.empty.fingerprint)
    curve, rungs, began = [], 0, time.perf_counter()
    with readings.writing(TENANT, session) as head, readings.reading(TENANT, head, "book", ids, Stop()) as work:
        started, durable = time.perf_counter(), 0
        for position, saved in readings.read_segment(work, "book", ids, Stop()):
            curve.append((round(time.perf_counter() - started, 3), position))
            rungs, durable = rungs + (saved > durable), saved
        read_s = time.perf_counter() - started
        head = readings.save(work)
    took = time.perf_counter() - began
    readings.vault.store.close()
    return {"tokens": len(ids), "lookup_s": round(started - began, 3), "read_s": round(read_s, 3), "rungs": rungs,
            "save_s": round(took - read_s - (started - began), 3), "stored_gb": round(head.view.bytes / 1e9, 3),
            "curve": curve}  # fmt: skip


def store_random(bench: Bench, session: str, tokens: int) -> dict[str, Any]:
    """A reading as large as one of ``tokens`` tokens, which nobody has read."""
    readings, ids = bench.readings(), some_ids(bench.driver.engine, tokens)
    head = readings.vault.open(TENANT, session, readings.empty.fingerprint)
    seq = bench.driver.call(lambda engine: at_depth(engine, tokens))
    started = time.perf_counter()
    state = readings.taking.export(seq, 0)
    exported = time.perf_counter()
    head, _ = readings.vault.commit(TENANT, head, Draft(readings.empty, (), (Piece("book", ids, tokens),), state, 1.0))
    saved = time.perf_counter()
    bench.driver.keep((TENANT, head.digest), seq)
    return {"tokens": tokens, "export_s": round(exported - started, 3), "save_s": round(saved - exported, 3),
            "stored_gb": round(head.view.bytes / 1e9, 3)}  # fmt: skip


def stages(bench: Bench, session: str) -> dict[str, Any]:
    """What each stage takes when nothing runs beside it; in a resume they overlap."""
    readings = bench.readings()
    vault, key = readings.vault, readings.vault.keys.of(TENANT)
    manifest = vault.at(TENANT, readings.head(TENANT, session).view)
    refs = [*manifest.rungs[-1].parts, *manifest.pages]
    wire = timed(lambda: fetched_sealed(bench, [block_key(TENANT, ref.name) for ref in refs]))
    page, plain = manifest.pages[0], memoryview(bytearray(MAX_VALUE))
    sealed = memoryview(connect(bench.url).get(block_key(TENANT, page.name)))  # type: ignore[arg-type]
    decrypt = timed(lambda: [opened(key, page, sealed, plain) for _ in refs])
    checked = timed(lambda: [None for _ in vault.store.blocks.fetch(TENANT, key, refs)])
    copied = copies(bench.driver, manifest)
    vault.store.close()
    gb = sum(ref.size for ref in refs) / 1e9
    found = {"redis": wire, "decrypt_one_thread": decrypt, "redis_and_decrypt": checked, "copy_to_device": copied}
    return {f"{name}_s": round(s, 3) for name, s in found.items()} | {"gb": round(gb, 3)}


def timed(run: Any) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def fetched_sealed(bench: Bench, keys: list[bytes]) -> None:
    connections = Connections(bench.url, bench.connections, 60)

    def take(share: int) -> None:
        room = memoryview(bytearray(MAX_VALUE))
        with connections.lease() as connection:
            for name in keys[share :: bench.connections]:
                assert connection.get_into(name, room)

    with ThreadPoolExecutor(bench.connections) as pool:
        list(pool.map(take, range(bench.connections)))


def copies(driver: Driver, manifest: Manifest) -> float:
    """Every page from one pinned page, as a restore puts them."""
    engine = driver.engine
    layers, _, size, width = engine.pools.latents.shape
    rows = torch.zeros(layers, size, width, dtype=engine.model.dtype)
    rows = rows.pin_memory() if engine.model.device.type == "cuda" else rows
    seq = driver.call(lambda e: e.begin_restore(manifest.position))

    def put() -> None:
        for page in manifest.pages:
            engine.put_latents(seq, page.first, rows[:, : page.last - page.first])
        torch.cuda.synchronize() if engine.model.device.type == "cuda" else None

    took = timed(put)
    driver.close(seq)
    return took
