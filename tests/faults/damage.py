"""Stored values deleted, cut short, swapped, at random: the right answer or DATA_LOSS."""

from __future__ import annotations

import random
from collections import Counter

from tests.faults.cold import ColdFolder
from tests.faults.fault import Fault
from tests.faults.store import Store
from tests.faults.world import Lab, Saved, World

BUILD = 18  # calls of each tenant: sessions with several segments, forks and bookmarks
Shelf = Store | ColdFolder


class Damage(Fault):
    """Harms what lies in Redis, in the cold tier, or in Redis with nothing below; the world is put back each time."""

    def __init__(self, lab: Lab, dice: random.Random) -> None:
        super().__init__(lab, dice)
        self._hot = Saved(self.world)
        self._down = self._tiered_down()

    def make(self, dice: random.Random) -> World:
        world = self.lab.world()
        world.work(dice, BUILD)
        return world

    def _tiered_down(self) -> Saved:
        for tenant in self.world.books:
            self.world.life.vault(tenant).tier_down()
        return Saved(self.world)

    def harm(self, dice: random.Random, shelf: Shelf) -> None:
        raise NotImplementedError

    def strike(self, dice: random.Random) -> Counter[str]:
        """Harm in Redis alone loses nothing: tokens and manifests are in the cold tier at once. What was mended is
        mended for good: the second fresh engine finds it whole."""
        where = dice.choice(["redis", "redis", "cold", "both"])
        (self._down if where == "cold" else self._hot).load(self.world)
        self.harm(dice, self.world.cold if where == "cold" else self.world.store)
        if where == "both":
            self.world.cold.delete(*self.world.cold.keys("blk", "man"))
        self.world.fresh()
        outcome = self.world.check(dice, mends=True, loses=where != "redis")
        self.world.fresh()
        self.world.check(dice, visit=False)
        return outcome


def some(dice: random.Random, shelf: Shelf, *kinds: str) -> list[bytes]:
    """One value, a few, half or all of them."""
    keys = shelf.keys(*kinds)
    share = dice.choice([0.0, 0.0, 0.0, 0.05, 0.5, 1.0])
    return dice.sample(keys, max(1, int(len(keys) * share)))


class DeleteBlocks(Damage):
    name = "delete_blocks"

    def harm(self, dice: random.Random, shelf: Shelf) -> None:
        shelf.delete(*some(dice, shelf, *dice.choice([("blk",), ("man",), ("blk", "man")])))


class Truncate(Damage):
    """Values that end early, down to nothing; one in four grows instead."""

    name = "truncate"

    def harm(self, dice: random.Random, shelf: Shelf) -> None:
        for key in some(dice, shelf, "blk", "man"):
            value = shelf.get(key)
            longer = dice.random() < 0.25
            shelf.set(key, value + b"\0" if longer else value[: dice.randrange(len(value))])


class SwapBlocks(Damage):
    """Two values change places: of one tenant or of two, of one kind or of two, of one size more often."""

    name = "swap_blocks"

    def harm(self, dice: random.Random, shelf: Shelf) -> None:
        values = {key: shelf.get(key) for key in shelf.keys("blk", "man")}
        for _ in range(dice.choice([1, 1, 3, 20])):
            one, other = dice.sample(sorted(values), 2)
            if dice.random() < 0.6:
                other = dice.choice([key for key, value in values.items() if len(value) == len(values[one])])
            values[one], values[other] = values[other], values[one]
        for key, value in values.items():
            shelf.set(key, value)


class CutLog(Fault):
    """The append-only file ends early, by any length: each session stands where it once stood, whole.

    Without a cold tier: that one does not go back with Redis, and has swept by then what an old head may name.
    """

    name, kills = "cut_aof", 1

    def __init__(self, lab: Lab, dice: random.Random) -> None:
        super().__init__(lab, dice)
        self._saved = Saved(self.world)
        self.world.store.kill()
        self._log = self.world.store.aof.read_bytes()

    def make(self, dice: random.Random) -> World:
        world = self.lab.world(COLD_URL="")
        world.work(dice, BUILD)
        return world

    def strike(self, dice: random.Random) -> Counter[str]:
        store = self.world.store
        store.kill()
        store.aof.write_bytes(self._log[: dice.randrange(len(self._log))])
        store.start()
        self._saved.load_books(self.world)
        for book in self.world.books.values():
            book.any_time()
        self.world.fresh()
        return self.world.check(dice, visit=False)
