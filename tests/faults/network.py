"""Slow, half-open and cut connections between the engine and Redis."""

from __future__ import annotations

import random
import time
from collections import Counter

from services import errors
from tests.faults.fault import Fault, check_clear
from tests.faults.proxy import Proxy
from tests.faults.world import World

PATIENCE_S = 1.0  # of the clients, while the line is bad
SECONDS = 0.6


class Network(Fault):
    """The weather changes while two tenants work; afterwards an engine with a good line finds everything."""

    weather = "fair"

    def make(self, dice: random.Random) -> World:
        world = super().make(dice)
        self.proxy = Proxy(world.store.port)
        return world

    def strike(self, dice: random.Random) -> Counter[str]:
        life = self.world.start(REDIS_URL=f"redis://127.0.0.1:{self.proxy.port}/0")
        try:
            with self.world.running(dice, life, PATIENCE_S) as running:
                time.sleep(dice.uniform(0, 0.2))
                self.proxy.change(dice, self.weather)
                time.sleep(SECONDS)
                self.proxy.change(dice, "fair")
                time.sleep(dice.uniform(0, 0.2))
            check_clear(running, errors.Unavailable, errors.EngineUnavailable, errors.DeadlineExceeded)
        finally:
            life.kill()
            self.proxy.change(dice, "fair")
            self.proxy.drop_all()
        self.world.fresh()
        return self.world.check(dice) + Counter(refused=len(running.refused))

    def stop(self) -> None:
        super().stop()
        self.proxy.stop()


class Slow(Network):
    name = weather = "slow"


class HalfOpen(Network):
    """Redis' side is gone without a word: calls end at their deadline, and no later."""

    name = weather = "half_open"


class Cut(Network):
    """Each connection is reset after some bytes, in the middle of a value as well as between two."""

    name = weather = "cut"
