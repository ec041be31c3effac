"""Stored values deleted, cut short, swapped, at random: the right answer or DATA_LOSS."""

from __future__ import annotations

import random
from collections import Counter

from tests.faults.fault import Fault
from tests.faults.world import Lab, World

BUILD = 24  # calls of each tenant: sessions with several segments, forks and bookmarks


class Damage(Fault):
    """Harms what lies in Redis under a world that is put back before each strike."""

    def __init__(self, lab: Lab, dice: random.Random) -> None:
        super().__init__(lab, dice)
        self._saved = self.world.save()

    def make(self, dice: random.Random) -> World:
        world = self.lab.world()
        world.work(dice, BUILD)
        return world

    def harm(self, dice: random.Random) -> None:
        raise NotImplementedError

    def strike(self, dice: random.Random) -> Counter[str]:
        """What was mended is mended for good: the second fresh engine finds it whole."""
        self._saved.load(self.world)
        self.harm(dice)
        self.world.fresh()
        outcome = self.world.check(dice, lossy=True)
        self.world.fresh()
        self.world.check(dice, visit=False)
        return outcome

    def some(self, dice: random.Random, *kinds: str) -> list[bytes]:
        """One value, a few, half or all of them."""
        keys = self.world.store.keys(*kinds)
        share = dice.choice([0.0, 0.0, 0.0, 0.05, 0.5, 1.0])
        return dice.sample(keys, max(1, int(len(keys) * share)))


class DeleteBlocks(Damage):
    name = "delete_blocks"

    def harm(self, dice: random.Random) -> None:
        self.world.store.client.delete(*self.some(dice, *dice.choice([("blk",), ("man",), ("blk", "man")])))


class Truncate(Damage):
    """Values that end early, down to nothing; one in four grows instead."""

    name = "truncate"

    def harm(self, dice: random.Random) -> None:
        client = self.world.store.client
        for key in self.some(dice, "blk", "man"):
            value: bytes = client.get(key)  # type: ignore[assignment]
            longer = dice.random() < 0.25
            client.set(key, value + b"\0" if longer else value[: dice.randrange(len(value))])


class SwapBlocks(Damage):
    """Two values change places: of one tenant or of two, of one kind or of two."""

    name = "swap_blocks"

    def harm(self, dice: random.Random) -> None:
        client = self.world.store.client
        keys = self.world.store.keys("blk", "man")
        for _ in range(dice.choice([1, 1, 3, 20])):
            one, other = dice.sample(keys, 2)
            if dice.random() < 0.6:
                size = client.strlen(one)
                other = dice.choice([key for key in keys if client.strlen(key) == size])
            first, second = client.mget(one, other)  # type: ignore[misc]
            client.mset({one: second, other: first})


class CutLog(Damage):
    """The append-only file ends early: each session stands where it once stood, whole."""

    name, kills = "cut_aof", 1

    def __init__(self, lab: Lab, dice: random.Random) -> None:
        super().__init__(lab, dice)
        self.world.store.kill()
        self._log = self.world.store.aof.read_bytes()

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
