"""A Redis of one's own with an append-only file: killed, started again, starved, filled and cut."""

import subprocess
import time
from pathlib import Path
from typing import Any

import redis

from tests.conftest import free_port, redis_binary

START_SECONDS = 60.0


class Store:
    """`python`'s view of one Redis process and its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client: Any = redis.Redis.from_url(self.url)
        folder.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> None:
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder, "save": "", "appendonly": "yes"}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        with (self.folder.parent / "redis.log").open("ab") as log:
            self.process = subprocess.Popen([redis_binary(), *words], stdout=log, stderr=log)
        self._await()

    def _await(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.client.ping()
                return
            except redis.RedisError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"Redis did not start in {self.folder}: see redis.log beside it") from error
                time.sleep(0.005)

    def end_leases(self) -> None:
        """A dead keeper's lease ends by itself after ten seconds; a thousand kills do not wait for each."""
        self.delete(*self.keys("keeper"))

    def kill(self) -> None:
        """kill -9, which loses what the process had not yet handed to the kernel, and nothing else."""
        self.process.kill()
        self.process.wait()

    @property
    def aof(self) -> Path:
        return self.folder / "appendonly.aof"

    # --- raw values ---------------------------------------------------------------------------------------------------

    def keys(self, *kinds: str) -> list[bytes]:
        """Keys `shiori:{tenant}:KIND:…` of every tenant, in order; all keys when no kind is named."""
        found = sorted(self.client.scan_iter("shiori:*", count=10_000))
        return [key for key in found if not kinds or key.split(b"}:", 1)[1].split(b":")[0].decode() in kinds]

    def get(self, key: bytes) -> bytes:
        value: bytes = self.client.get(key)
        return value

    def set(self, key: bytes, value: bytes) -> None:
        self.client.set(key, value)

    def delete(self, *keys: bytes) -> None:
        if keys:
            self.client.delete(*keys)

    def dump(self) -> dict[bytes, bytes]:
        """Every key's serialised value, without what ends by itself: a dead keeper's lease must not live for ever."""
        keys = [key for key in sorted(self.client.scan_iter("*", count=10_000)) if self.client.pttl(key) == -1]
        pipe = self.client.pipeline(transaction=False)
        for key in keys:
            pipe.dump(key)
        return dict(zip(keys, pipe.execute(), strict=True))

    def load(self, dumped: dict[bytes, bytes]) -> None:
        """Puts back exactly what `dump` gave."""
        pipe = self.client.pipeline(transaction=False)
        pipe.flushdb()
        for key, value in dumped.items():
            pipe.restore(key, 0, value)
        pipe.execute()
