"""Redis out of memory, and a disk that is full under its append-only file."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

from services import errors
from tests.faults.book import Broken
from tests.faults.fault import WARM_UP, Fault, check_clear
from tests.faults.store import Store
from tests.faults.world import World

SECONDS = 0.4  # of work while Redis takes nothing
RECOVERY_SECONDS = 10.0


class RedisFull(Fault):
    """What is there can be opened while nothing can be written; later everything goes on."""

    name = "redis_oom"

    def strike(self, dice: random.Random) -> Counter[str]:
        store = self.world.store
        used = int(store.client.info("memory")["used_memory"])
        store.client.config_set("maxmemory", used + dice.randint(-20_000, 200_000))
        try:
            with self.world.running(dice) as running:
                time.sleep(SECONDS)
            check_clear(running, errors.VaultFull, errors.Unavailable, errors.EngineUnavailable)
            self.world.fresh()
            outcome = self.world.check(dice, visit=False)
        finally:
            store.client.config_set("maxmemory", 0)
        self.world.work(dice, 3)
        return outcome + Counter(refused=len(running.refused))


class DiskFull(Fault):
    """A small file system under the append-only file. Once there is room, nothing that was acknowledged is lost."""

    name = "disk_full"

    def make(self, dice: random.Random) -> World:
        self.disk = SmallDisk()
        world = self.lab.world(Store(self.disk.folder / "redis"))
        world.work(dice, WARM_UP)
        return world

    def strike(self, dice: random.Random) -> Counter[str]:
        self.disk.fill()
        with self.world.running(dice) as running:
            time.sleep(SECONDS + 1.2)  # Redis looks at the result of its last write once a second
        check_clear(running, errors.VaultFull, errors.Unavailable, errors.EngineUnavailable)
        self.disk.make_room()
        self._await_writable()
        self.world.fresh()
        outcome = self.world.check(dice)
        self.world.work(dice, 3)
        return outcome + Counter(refused=len(running.refused))

    def _await_writable(self) -> None:
        deadline = time.monotonic() + RECOVERY_SECONDS
        while self.world.store.client.info("persistence")["aof_last_write_status"] != "ok":
            if time.monotonic() > deadline:
                raise Broken("refused", "Redis did not recover from a full disk")
            time.sleep(0.05)

    def stop(self) -> None:
        super().stop()
        self.disk.stop()


class NoSmallDisk(Exception):
    """This machine lets us mount nothing; the reason is in it."""


class SmallDisk:
    """A tmpfs that is filled by a file beside Redis' own."""

    MEGABYTES = 256

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="shiori-disk-"))
        command = ["mount", "-t", "tmpfs", "-o", f"size={self.MEGABYTES}m", "tmpfs", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        if done.returncode:
            self.folder.rmdir()
            raise NoSmallDisk(f"no tmpfs can be mounted here: {done.stderr.strip()}")

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self) -> None:
        """To the last byte; what Redis deletes or rewrites later makes a little room, as on a real disk."""
        with self._ballast.open("ab", buffering=0) as file:
            while free := os.statvfs(self.folder).f_bavail * os.statvfs(self.folder).f_frsize:
                file.write(bytes(min(free, 1 << 20)))

    def make_room(self) -> None:
        self._ballast.unlink()

    def stop(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True, timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)
