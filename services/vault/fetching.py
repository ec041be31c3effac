"""Blocks on their way in: asked for in the ring of this process, in Redis, in the cold tier, in this order. What is
damaged in one is taken from the next and mended on the way.

Nothing leaves here that has not opened under its name (sealing.py).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import redis
import structlog

from services.vault.cold import Cold, asked
from services.vault.connections import Connections
from services.vault.keys import TenantKey
from services.vault.metrics import Metrics
from services.vault.names import block_key, cold_key
from services.vault.resp import ValueTooLong
from services.vault.ring import Ring, Slot
from services.vault.sealing import MAX_VALUE, Damaged, Ref, opened

log = structlog.get_logger(__name__)


class Lost(Damaged):
    """Blocks that no tier has whole any more; `bad` are their names."""

    def __init__(self, problems: list[Damaged]) -> None:
        super().__init__(problems[0].name, str(problems[0]), problems[0].what)
        self.bad = frozenset(problem.name for problem in problems)


class Fetcher:
    """`pool`'s threads fetch; twice as many blocks as `threads` are on their way at once."""

    def __init__(
        self,
        client: redis.Redis,
        connections: Connections,
        ring: Ring,
        cold: Cold | None,
        metrics: Metrics,
        pool: ThreadPoolExecutor,
        threads: int,
    ) -> None:
        self._redis: Any = client
        self._connections, self._ring, self._cold, self._metrics = connections, ring, cold, metrics
        self._pool, self._window = pool, 2 * threads
        self._local = threading.local()
        self.has_room: Callable[[], bool] = lambda: True  # in Redis, for what comes back from the cold tier

    def fetch(self, tenant: str, key: TenantKey, refs: Iterable[Ref]) -> Iterator[tuple[Ref, memoryview]]:
        """Payloads in the order of `refs`, several on their way at once; each is valid until the next is asked for.

        Raises Lost at the end, with all their names, when some are lost in every tier.
        """
        bad: list[Damaged] = []
        under_way: deque[tuple[Ref, Future[Slot | Damaged]]] = deque()
        try:
            for ref in refs:
                under_way.append((ref, self._pool.submit(self._get, tenant, key, ref)))
                if len(under_way) >= self._window:
                    yield from _handed(*under_way.popleft(), bad)
            while under_way:
                yield from _handed(*under_way.popleft(), bad)
        finally:
            for _, future in under_way:
                if not future.cancel() and isinstance(found := future.result(), Slot):
                    self._ring.release(found)
        if bad:
            log.error("blocks_lost", count=len(bad), first=str(bad[0]))
            raise Lost(bad)

    def raw(self, tenant: str, key: TenantKey, refs: Iterable[Ref]) -> Iterator[tuple[Ref, memoryview]]:
        """Sealed bytes from Redis, each opened first; valid until the next is asked for. Raises Damaged."""
        plain = memoryview(bytearray(MAX_VALUE))
        for ref in refs:
            data = self._from_redis(tenant, ref)
            if data is None:
                raise Damaged(ref.name, f"{ref.kind} {ref.first}..{ref.last} is missing", "missing")
            opened(key, ref, data, plain)
            yield ref, data

    def _get(self, tenant: str, key: TenantKey, ref: Ref) -> Slot | Damaged:
        if (slot := self._ring.find(ref.name.encode())) is not None:
            self._metrics.read("ring", ref.size)
            return slot
        slot = self._ring.acquire()
        try:
            problem = self._into(slot, tenant, key, ref)
        except BaseException:
            self._ring.release(slot)
            raise
        if problem is None:
            self._ring.fill(slot, ref.name.encode(), ref.payload_bytes)
            return slot
        self._ring.release(slot)
        return problem

    def _into(self, slot: Slot, tenant: str, key: TenantKey, ref: Ref) -> Damaged | None:
        """Fills the slot from the first tier whose copy opens."""
        problem = Damaged(ref.name, f"{ref.kind} {ref.first}..{ref.last} is missing", "missing")
        for tier, receive in (("redis", self._from_redis), ("cold", self._from_cold)):
            data = receive(tenant, ref)
            if data is None:
                continue
            try:
                opened(key, ref, data, slot.view(ref.payload_bytes))
            except Damaged as damaged:
                problem = damaged
                self._out_of_the_way(tenant, ref, tier, damaged)
                continue
            self._metrics.read(tier, ref.size)
            if tier == "cold" and self.has_room():
                self._redis.set(block_key(tenant, ref.name), bytes(data))
            return None
        if problem.what == "missing":
            self._metrics.damaged("redis", "missing")
        return problem

    def _from_redis(self, tenant: str, ref: Ref) -> memoryview | None:
        room = self._scratch()
        with self._connections.lease() as connection:
            try:
                length = connection.get_into(block_key(tenant, ref.name), room)
            except ValueTooLong:
                return room[:0]  # not what was written: it fails its check
        return None if length is None else room[:length]

    def _from_cold(self, tenant: str, ref: Ref) -> memoryview | None:
        room = self._scratch()
        try:
            length = asked(self._cold, lambda cold: cold.get_into(cold_key(tenant, "blk", ref.name), room))
        except ValueTooLong:
            return room[:0]
        return None if length is None else room[:length]

    def _out_of_the_way(self, tenant: str, ref: Ref, tier: str, damaged: Damaged) -> None:
        """What is damaged must not stand in the way of its repair: blocks are written once."""
        self._metrics.damaged(tier, "bytes")
        log.error("block_damaged", tier=tier, why=str(damaged))
        if tier == "redis":
            self._redis.unlink(block_key(tenant, ref.name))
        else:
            asked(self._cold, lambda cold: cold.delete([cold_key(tenant, "blk", ref.name)]))

    def _scratch(self) -> memoryview:
        """One per thread, used again: first touches of fresh memory cost more than the wire."""
        if not hasattr(self._local, "room"):
            self._local.room = memoryview(bytearray(MAX_VALUE))
        room: memoryview = self._local.room
        return room


def _handed(ref: Ref, future: Future[Slot | Damaged], bad: list[Damaged]) -> Iterator[tuple[Ref, memoryview]]:
    found = future.result()
    if isinstance(found, Damaged):
        bad.append(found)
        return
    with found:
        yield ref, found.view(ref.payload_bytes)
