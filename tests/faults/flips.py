"""Single bits, flipped in what is stored. The engine runs in this process: a flip takes milliseconds.

A flip is *mended* (the right continuation, and the engine says that it took the value from elsewhere or computed
again), *refused* (a clear error), or *harmless* (the right continuation, told as if nothing were wrong: only where
opening the session does not need the value). Anything else is a failure: `wrong` (another continuation), `told`
(another head or bookmark than the true one), `unclear` (an error that names nothing), `unnoticed` (a block or manifest
that was used as it was), `lost` (refused, though the cold tier has it whole).
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
from services.cli.vault_client import VaultClient
from services.inference.client import InferenceClient
from services.inference.server import InferenceServer, build_server
from services.inference.service import Service
from services.inference.settings import InferenceSettings
from tests.faults.book import Broken, Standing
from tests.faults.cold import ColdFolder
from tests.faults.fault import WARM_UP
from tests.faults.script import check_answer
from tests.faults.store import Store
from tests.faults.world import TENANTS, Lab, Saved

GOOD = ("mended", "refused", "harmless")
CLEAR = (errors.DataLoss, errors.StateIncompatible)
SEALED = ("blk", "man")
EDGE = 64  # bytes at either end where headers, nonces and tags are
SHOWN = 20  # failures kept with their words


@dataclass(frozen=True)
class Place:
    """Where bits are flipped, and from which state of the world on."""

    name: str
    saved: Saved
    shelf: Store | ColdFolder
    alone: bool = False  # no block or manifest in the cold tier to mend from
    lost: bool = False  # Redis has lost everything, and the session is brought back first


class Flips:
    """A world, saved hot and tiered down, and an engine that is made to forget after each flip."""

    name, kills = "flips", 0

    def __init__(self, lab: Lab, dice: random.Random) -> None:
        self.lab, self.world = lab, lab.world()
        self.world.work(dice, WARM_UP)
        self.world.end_life(politely=True)
        self.world.check(dice, visit=False)  # what the script had moved down comes back to Redis
        hot = Saved(self.world)
        for tenant in TENANTS:
            self.world.life.vault(tenant).tier_down()
        down = Saved(self.world)
        store, cold = self.world.store, self.world.cold
        self.places = [Place("redis", hot, store), Place("alone", hot, store, alone=True)]
        self.places += [Place("cold", down, cold), Place("lost", down, cold, lost=True)]
        self._serve()
        self.opened = [
            (tenant, session, standing)
            for tenant, book in self.world.books.items()
            for session, standing in book.sure().items()
            if standing.segments
        ]
        hot.load(self.world)
        self._used = {(tenant, session): self._names_used(tenant, session) for tenant, session, _ in self.opened}
        self.examples: list[str] = []

    def _serve(self) -> None:
        with mock.patch.dict(os.environ, self.world.environment(SWEEP_SECONDS="0")):
            self.server, port = build_server(InferenceSettings.from_env())
        self.server.start()
        self.clients = {tenant: InferenceClient(f"127.0.0.1:{port}", tenant) for tenant in TENANTS}
        self.operators = {tenant: VaultClient(f"127.0.0.1:{port}", tenant) for tenant in TENANTS}

    def strike(self, dice: random.Random) -> Counter[str]:
        """One flip. Counts `outcome` and `place.region outcome`."""
        place, (tenant, session, standing) = dice.choice(self.places), dice.choice(self.opened)
        place.saved.load(self.world)
        if place.alone:
            self.world.cold.delete(*self.world.cold.keys("blk", "man"))
        flip = self._choose(dice, place, tenant, session)
        flip.apply(place.shelf)
        if place.lost:
            self.world.store.client.flushdb()
        forget_everything(self.server)
        outcome, said = self._outcome(tenant, session, standing, place.lost)
        if outcome == "harmless" and flip.kind in SEALED and flip.name in self._used[tenant, session]:
            outcome = "unnoticed"
        if outcome == "refused" and place.name == "redis" and flip.kind in (*SEALED, "key"):
            outcome = "lost"
        if outcome not in GOOD and len(self.examples) < SHOWN:
            self.examples.append(f"{outcome}: {place.name}: {flip}: {said}")
        return Counter({outcome: 1, f"{place.name}.{flip.region} {outcome}": 1})

    def _outcome(self, tenant: str, session: str, standing: Standing, lost: bool) -> tuple[str, str]:
        before = self._damaged()
        try:
            if lost:
                self.operators[tenant].recover()
            recomputed = self._open(tenant, session, standing)
        except errors.ShioriError as error:
            clear = isinstance(error, CLEAR) or error.extra.get("reason") == "KEY_PROBLEM"
            clear |= lost and isinstance(error, errors.NotFound)  # its head's copy did not open
            return "refused" if clear else "unclear", f"{type(error).__name__}: {error.detail}"
        except Broken as broken:
            return broken.kind, broken.detail
        return "mended" if recomputed or self._damaged() > before else "harmless", "nothing was told"

    def _open(self, tenant: str, session: str, standing: Standing) -> bool:
        client = self.clients[tenant]
        told = client.describe_session(session)
        if not standing.is_told_by(told):
            marks = len(told.bookmarks)
            raise Broken("told", f"the head as {told.head.position}@{told.head.digest[:8]}, {marks} bookmarks")
        return check_answer(client, self.lab.control, tenant, session, standing.segments).recomputed

    def _damaged(self) -> int:
        """Blocks that the engine says it found damaged or missing."""
        return loaded(self.server).vault.metrics.all_damaged()

    def _names_used(self, tenant: str, session: str) -> set[str]:
        """The blocks and manifests that Redis is asked for while the session is opened."""
        forget_everything(self.server)
        with watching(self.world.store) as asked:
            self._open(tenant, session, self.world.books[tenant].sure()[session])
        return {name_of(key) for key in asked}

    def _choose(self, dice: random.Random, place: Place, tenant: str, session: str) -> Flip:
        """Three in four among what opening needs."""
        keys = place.shelf.keys()
        used = [key for key in keys if name_of(key) in self._used[tenant, session] and tenant.encode() in key]
        return choose(dice, place.shelf, dice.choice(used if used and dice.random() < 0.75 else keys))

    def stop(self) -> None:
        for client in (*self.clients.values(), *self.operators.values()):
            client.close()
        self.server.stop(grace_s=0)
        self.world.stop()


def loaded(server: InferenceServer) -> Service:
    assert server.servicer.loaded is not None
    return server.servicer.loaded


def forget_everything(server: InferenceServer) -> None:
    """As an engine that has just started: no live reading, no block, no manifest, no key."""
    service = loaded(server)
    for tenant in TENANTS:
        service.driver.forget(tenant)
    store = service.vault.store
    for tenant, name in list(store._manifests):
        store.forget(tenant, [name])
    store.ring.forget(list(store.ring._published))
    service.vault.keys._known.clear()


@contextmanager
def watching(store: Store) -> Iterator[set[bytes]]:
    """The keys that Redis is asked for while inside, scripts' own commands included."""
    asked: set[bytes] = set()
    with store.client.monitor() as monitor:
        yield asked
        store.client.get("watched enough")
        while "watched enough" not in (command := monitor.next_command()["command"]):
            asked |= {word.encode() for word in re.findall(r"shiori:\{[^}]*\}:[^\s\"]+", command)}


def name_of(key: bytes) -> str:
    """Of a key in Redis, `shiori:{tenant}:kind:NAME`, or in the cold tier, `tenant/kind/NAME`."""
    return re.split(r"[:/]", key.decode())[-1]


# --- one flip ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flip:
    """A bit of one value: of a string or a file, of a hash field, of a member of a sorted set."""

    key: bytes
    bit: int
    region: str  # "blk.head", "head.position", …
    field: bytes = b""

    @property
    def kind(self) -> str:
        return self.region.split(".")[0]

    @property
    def name(self) -> str:
        return name_of(self.key)

    def __str__(self) -> str:
        return f"bit {self.bit} of {self.key.decode()} {self.field.decode()} ({self.region})"

    def apply(self, shelf: Store | ColdFolder) -> None:
        if isinstance(shelf, ColdFolder) or shelf.client.type(self.key) == b"string":
            shelf.set(self.key, flipped(shelf.get(self.key), self.bit))
        elif shelf.client.type(self.key) == b"hash":
            value: bytes = shelf.client.hget(self.key, self.field)
            shelf.client.hset(self.key, self.field, flipped(value, self.bit))
        else:
            shelf.client.zrem(self.key, self.field)
            shelf.client.zadd(self.key, {flipped(self.field, self.bit): 0})


def choose(dice: random.Random, shelf: Store | ColdFolder, key: bytes) -> Flip:
    if isinstance(shelf, ColdFolder):
        return _in_value(dice, key, key.decode().split("/")[1], len(shelf.get(key)))
    kind, client = key.split(b"}:", 1)[1].split(b":")[0].decode(), shelf.client
    if client.type(key) == b"string":
        return _in_value(dice, key, kind, len(shelf.get(key)))
    if client.type(key) == b"zset":
        member: bytes = dice.choice(client.zrange(key, 0, -1))
        return Flip(key, dice.randrange(len(member) * 8), f"{kind}.*", member)
    fields: dict[bytes, bytes] = client.hgetall(key)
    field = dice.choice(sorted(name for name, value in fields.items() if value))
    part = field.decode() if kind in ("head", "counters") else "*"
    return Flip(key, dice.randrange(len(fields[field]) * 8), f"{kind}.{part}", field)


def _in_value(dice: random.Random, key: bytes, kind: str, length: int) -> Flip:
    """At either end, where headers and tags are, as often as anywhere."""
    edge = min(EDGE, length)
    byte = dice.choice([dice.randrange(edge), length - 1 - dice.randrange(edge), dice.randrange(length)])
    part = "head" if byte < EDGE else "tail" if byte >= length - EDGE else "middle"
    return Flip(key, byte * 8 + dice.randrange(8), f"{kind}.{part}")


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
