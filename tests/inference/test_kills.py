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

from services.inference.heads import Head
from services.inference.vault import Vault
from tests.conftest import free_port, redis_binary
from tests.inference.conftest import wait_for
from tests.inference.test_vault import EMPTY, draft, opened

KILLS = int(os.environ.get("SHIORI_KILLS", "20"))


def write_until_killed(url: str, seed: int) -> None:
    """In a forked child: one commit after the other. Each reading's length is a function of the number of segments."""
    vault = Vault(redis.Redis.from_url(url))
    head = vault.heads.begin("t", "s")
    manifest = vault.manifest("t", head.manifest) if head.manifest else EMPTY
    while True:
        number = len(manifest.segments)
        head, manifest = vault.commit("t", head, draft(manifest, 100 + number % 7, seed=number))
        if number % 5 == seed % 5:
            vault.sweep("t")


def killed_writer(url: str, seed: int, seconds: float) -> None:
    child = os.fork()
    if child == 0:
        try:
            write_until_killed(url, seed)
        finally:
            os._exit(1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def whole(vault: Vault) -> Head:
    head = vault.heads.get("t", "s")
    if head.manifest:
        manifest = vault.manifest("t", head.manifest)
        state = vault.state("t", manifest)
        assert (state.position, head.segments) == (head.position, len(vault.log("t", manifest)))
        assert head.position == sum(100 + number % 7 for number in range(head.segments))
    return head


def test_killed_writers(redis_url: str) -> None:
    dice = random.Random(1)
    vault = Vault(redis.Redis.from_url(redis_url))
    opened(vault)
    segments = [0]
    for seed in range(KILLS):
        killed_writer(redis_url, seed, dice.uniform(0.02, 0.12))
        segments.append(whole(vault).segments)
    assert segments == sorted(segments)  # a head never goes back
    assert segments[-1] > 0
    vault.sweep("t")
    whole(vault)


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


def test_killed_redis(own_store: Store) -> None:
    dice = random.Random(2)
    opened(Vault(redis.Redis.from_url(own_store.url)))
    for seed in range(max(3, KILLS // 5)):
        child = os.fork()
        if child == 0:
            try:
                write_until_killed(own_store.url, seed)
            finally:
                os._exit(1)
        time.sleep(dice.uniform(0.02, 0.12))
        own_store.kill()
        os.waitpid(child, 0)
        own_store.start()
        whole(Vault(redis.Redis.from_url(own_store.url)))
