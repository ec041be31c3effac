"""What a fault is to the runner."""

from __future__ import annotations

import random
from collections import Counter

from services import errors
from tests.faults.book import Broken
from tests.faults.script import Running
from tests.faults.world import Lab, World

WARM_UP = 12  # calls of each tenant before the first fault


class Fault:
    """One kind of fault, over a world of its own. `strike` does it once and checks; it counts outcomes or is Broken."""

    name = ""
    kills = 0  # processes killed with -9 by a strike

    def __init__(self, lab: Lab, dice: random.Random) -> None:
        self.lab = lab
        self.world = self.make(dice)

    def make(self, dice: random.Random) -> World:
        world = self.lab.world()
        world.work(dice, WARM_UP)
        return world

    def strike(self, dice: random.Random) -> Counter[str]:
        raise NotImplementedError

    def stop(self) -> None:
        self.world.stop()


def check_clear(running: Running, *expected: type[errors.ShioriError]) -> None:
    """Whoever was refused was told why, in words of the tree; a conflict may follow an answer that was lost."""
    for error in running.refused:
        if not isinstance(error, (*expected, errors.Conflict)):
            raise Broken("unclear", f"{type(error).__name__} {error.code}: {error.detail}")
