"""Single bits, flipped in what is stored. The engine runs in this process: a flip takes milliseconds.

A flip is *mended* (the right continuation, and the engine says that it had to compute again), *refused* (a clear
error), or *harmless* (the right continuation, told as if nothing were wrong: only where opening the session does not
need the value). Anything else is a failure: `wrong` (another continuation), `told` (another head or bookmark than the
true one), `unclear` (an error that names nothing), `unnoticed` (a block or manifest that was used as it was).
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

from services import errors
from services.inference.client import InferenceClient
from services.inference.server import InferenceServer, build_server
from services.inference.settings import InferenceSettings
from tests.faults.book import Broken, Standing
from tests.faults.fault import WARM_UP
from tests.faults.script import check_answer
from tests.faults.store import Store
from tests.faults.world import TENANTS, Lab

GOOD = ("mended", "refused", "harmless")
CLEAR = (errors.DataLoss, errors.StateIncompatible)
SEALED = ("blk", "man")
EDGE = 64  # bytes at either end where headers, nonces and tags are
SHOWN = 20  # failures kept with their words


@dataclass(frozen=True)
class Target:
    """One value: a string, a hash field or a member of a sorted set."""

    key: bytes
    field: bytes = b""

    @property
    def kind(self) -> str:
        return self.key.split(b"}:", 1)[1].split(b":")[0].decode()


@dataclass(frozen=True)
class Flip:
    target: Target
    bit: int
    region: str  # "blk.head", "head.position", …

    def __str__(self) -> str:
        return f"bit {self.bit} of {self.target.key.decode()} {self.target.field.decode()} ({self.region})"


class Flips:
    """A world, its content saved, and an engine that is made to forget after each flip."""

    name, kills = "flips", 0

    def __init__(self, lab: Lab, dice: random.Random) -> None:
        self.lab, self.world = lab, lab.world()
        self.world.work(dice, WARM_UP)
        self.world.end_life()
        self._values = self.world.store.dump()
        with mock.patch.dict(os.environ, self.world.environment(SWEEP_SECONDS="0")):
            self.server, port = build_server(InferenceSettings.from_env())
        self.server.start()
        self.clients = {tenant: InferenceClient(f"127.0.0.1:{port}", tenant) for tenant in TENANTS}
        self.opened = [
            (tenant, session, standing)
            for tenant, book in self.world.books.items()
            for session, standing in book.sure().items()
            if standing.segments
        ]
        self._used = {(tenant, session): self._keys_used(tenant, session) for tenant, session, _ in self.opened}
        self.examples: list[str] = []

    def strike(self, dice: random.Random) -> Counter[str]:
        """One flip. Counts `outcome` and `region outcome`."""
        tenant, session, standing = dice.choice(self.opened)
        flip = self._choose(dice, tenant, session)
        apply(self.world.store, flip)
        forget_everything(self.server)
        try:
            outcome = self._open(tenant, session, standing)
        except Broken as broken:
            outcome, said = broken.kind, broken.detail
        else:
            said = "the session opened as if nothing were wrong"
            if outcome == "harmless" and flip.target.kind in SEALED and flip.target.key in self._used[tenant, session]:
                outcome = "unnoticed"
        if outcome not in GOOD and len(self.examples) < SHOWN:
            self.examples.append(f"{outcome}: {flip}: {said}")
        self.world.store.load(self._values)
        return Counter({outcome: 1, f"{flip.region} {outcome}": 1})

    def _open(self, tenant: str, session: str, standing: Standing) -> str:
        client = self.clients[tenant]
        try:
            told = client.describe_session(session)
            if not standing.is_told_by(told):
                raise Broken(
                    "told", f"head {told.head.position} {told.head.digest[:8]}, {len(told.bookmarks)} bookmarks"
                )
            usage = check_answer(client, self.lab.control, tenant, session, standing.segments)
        except CLEAR:
            return "refused"
        except errors.ShioriError as error:
            raise Broken("unclear", f"{type(error).__name__}: {error.detail}") from error
        return "mended" if usage.recomputed else "harmless"

    def _keys_used(self, tenant: str, session: str) -> set[bytes]:
        """What Redis is asked for while the session is opened."""
        forget_everything(self.server)
        with watching(self.world.store) as asked:
            self._open(tenant, session, self.world.books[tenant].sure()[session])
        return asked

    def _choose(self, dice: random.Random, tenant: str, session: str) -> Flip:
        """Three in four among what opening needs."""
        used = sorted(self._used[tenant, session])
        key = dice.choice(used if dice.random() < 0.75 else self.world.store.keys())
        return choose(dice, self.world.store, key)

    def stop(self) -> None:
        for client in self.clients.values():
            client.close()
        self.server.stop(grace_s=0)
        self.world.stop()


def forget_everything(server: InferenceServer) -> None:
    """As if the engine had needed the room."""
    service = server.servicer.loaded
    assert service is not None
    live = list(service.driver._live)
    for tenant in TENANTS:
        service.driver.forget(tenant, {manifest for owner, manifest in live if owner == tenant})


@contextmanager
def watching(store: Store) -> Iterator[set[bytes]]:
    """The keys that Redis is asked for while inside, scripts' own commands included."""
    asked: set[bytes] = set()
    with store.client.monitor() as monitor:
        yield asked
        store.client.get("watched enough")
        while "watched enough" not in (command := monitor.next_command()["command"]):
            asked |= {word.encode() for word in re.findall(r"shiori:\{[^}]*\}:[^\s\"]+", command)}
    asked &= set(store.keys())


# --- one flip ---------------------------------------------------------------------------------------------------------


def choose(dice: random.Random, store: Store, key: bytes) -> Flip:
    kind = store.client.type(key)
    if kind == b"string":
        length = store.client.strlen(key)
        byte = _place(dice, length)  # type: ignore[arg-type]
        part = "head" if byte < EDGE else "tail" if byte >= length - EDGE else "middle"  # type: ignore[operator]
        target = Target(key)
        return Flip(target, byte * 8 + dice.randrange(8), f"{target.kind}.{part}")
    if kind == b"hash":
        target = Target(key, dice.choice(sorted(store.client.hkeys(key))))  # type: ignore[arg-type]
        length = len(store.client.hget(key, target.field) or b"")  # type: ignore[arg-type]
        if length:
            name = target.field.decode() if target.kind in ("head", "counters") else "*"
            return Flip(target, dice.randrange(length * 8), f"{target.kind}.{name}")
        return choose(dice, store, key)
    target = Target(key, dice.choice(store.client.zrange(key, 0, -1)))  # type: ignore[arg-type]
    return Flip(target, dice.randrange(len(target.field) * 8), f"{target.kind}.*")


def _place(dice: random.Random, length: int) -> int:
    """A byte: at either end as often as anywhere."""
    edge = min(EDGE, length)
    return dice.choice([dice.randrange(edge), length - 1 - dice.randrange(edge), dice.randrange(length)])


def apply(store: Store, flip: Flip) -> None:
    key, field, client = flip.target.key, flip.target.field, store.client
    kind = client.type(key)
    if kind == b"string":
        client.set(key, flipped(client.get(key), flip.bit))  # type: ignore[arg-type]
    elif kind == b"hash":
        client.hset(key, field, flipped(client.hget(key, field), flip.bit))  # type: ignore[arg-type]
    else:
        client.zrem(key, field)
        client.zadd(key, {flipped(field, flip.bit): 0})


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
