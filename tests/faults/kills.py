"""kill -9 of the engine and of Redis while two tenants work."""

from __future__ import annotations

import random
import time
from collections import Counter

from services import errors
from tests.faults.fault import Fault, check_clear
from tests.faults.life import await_serving, start_process
from tests.faults.world import TENANTS


class KillEngine(Fault):
    """At a random instant of its work; one in ten while it starts."""

    name, kills = "kill_engine", 1

    def strike(self, dice: random.Random) -> Counter[str]:
        if dice.random() < 0.1:
            starting = self.world.start(wait=False)
            time.sleep(dice.uniform(0, 0.06))
            starting.kill()
        else:
            with self.world.running(dice) as running:
                time.sleep(dice.uniform(0, 0.25))
                running.stop()
                self.world.life.kill()
        self.world.fresh()
        return self.world.check(dice)


class KillRealEngine(Fault):
    """`python -m services.inference`, so that the zygote's shortcut is checked too."""

    name, kills = "kill_real_engine", 1

    def strike(self, dice: random.Random) -> Counter[str]:
        life, process = start_process(self.world.environment(), self.lab.folder / "lives.log")
        try:
            await_serving(life, TENANTS[0])
            with self.world.running(dice, life) as running:
                time.sleep(dice.uniform(0.1, 0.6))
                running.stop()
                life.kill()
        finally:
            life.kill()
            process.wait()
        self.world.fresh()
        return self.world.check(dice)


class KillRedis(Fault):
    """It comes back in the same folder; the engine lives on. What was acknowledged is in the append-only file."""

    name, kills = "kill_redis", 1

    def strike(self, dice: random.Random) -> Counter[str]:
        with self.world.running(dice) as running:
            time.sleep(dice.uniform(0, 0.2))
            self.world.store.kill()
            time.sleep(dice.uniform(0, 0.1))
            self.world.store.start()
            time.sleep(dice.uniform(0, 0.1))
        check_clear(running, errors.Unavailable, errors.EngineUnavailable)
        self.world.fresh()
        return self.world.check(dice)
