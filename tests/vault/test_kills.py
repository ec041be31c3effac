"""kill -9 of writers and of Redis itself, at random moments: a head always names a whole reading, old or new.

SHIORI_KILLS=200 for a long run.
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from services.vault.heads import Head
from tests.conftest import free_port, redis_binary
from tests.inference.conftest import wait_for
from tests.vault.making import EMPTY, draft, make, opened, taken

KILLS = int(os.environ.get("SHIORI_KILLS", "20"))


def write_until_killed(url: str, folder: Path, seed: int) -> None:
    """In a forked child: one commit after the other. Each reading's length is a function of the number of segments."""
    keeper = make(url, folder, cold=False)
    vault = keeper.vault
    head = vault.heads.begin("t", "s")
    manifest = vault.at("t", head.view) if head.view.manifest else EMPTY
    while True:
        number = len(manifest.segments)
        head, manifest = vault.commit("t", head, draft(manifest, 100 + number % 7, seed=number))
        if number % 5 == seed % 5:
            keeper.collect("t")


def forked_writer(url: str, folder: Path, seed: int) -> int:
    child = os.fork()
    if child == 0:
        try:
            write_until_killed(url, folder, seed)
        finally:
            os._exit(1)
    return child


def killed_writer(url: str, folder: Path, seed: int, seconds: float) -> None:
    child = forked_writer(url, folder, seed)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def whole(url: str, folder: Path) -> Head:
    """As a fresh process finds it."""
    vault = make(url, folder, cold=False).vault
    head = vault.head("t", "s")
    if head.view.manifest:
        manifest = vault.at("t", head.view)
        rows, _ = taken(vault, manifest)
        assert (rows.shape[1], head.view.segments) == (head.position, len(vault.ids("t", manifest)))
        assert head.position == sum(100 + number % 7 for number in range(head.view.segments))
    return head


def test_killed_writers(redis_url: str, tmp_path: Path) -> None:
    dice = random.Random(1)
    opened(make(redis_url, tmp_path, cold=False).vault)
    segments = [0]
    for seed in range(KILLS):
        killed_writer(redis_url, tmp_path, seed, dice.uniform(0.04, 0.15))
        segments.append(whole(redis_url, tmp_path).view.segments)
    assert segments == sorted(segments)  # a head never goes back
    assert segments[-1] > 0
    redis.Redis.from_url(redis_url).delete("shiori:{t}:keeper")  # a killed keeper's lease, which would run out
    make(redis_url, tmp_path, cold=False).collect("t")
    whole(redis_url, tmp_path)


class Store:
    """A Redis with an append-only file, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        options = ["--port", str(self.port), "--dir", str(self.folder), "--save", "", "--appendonly", "yes"]
        self.process = subprocess.Popen([redis_binary(), *options], stdout=subprocess.DEVNULL)
        wait_for(lambda: redis.Redis.from_url(self.url).ping(), redis.exceptions.RedisError)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.kill()


def test_killed_redis(own_store: Store, tmp_path: Path) -> None:
    dice = random.Random(2)
    opened(make(own_store.url, tmp_path, cold=False).vault)
    for seed in range(max(3, KILLS // 5)):
        child = forked_writer(own_store.url, tmp_path, seed)
        time.sleep(dice.uniform(0.04, 0.15))
        own_store.kill()
        os.waitpid(child, 0)
        own_store.start()
        whole(own_store.url, tmp_path)
