"""Where blocks are: the ring in this process, Redis, the cold tier. Asked in this order; what is damaged in one is
taken from
the next and mended on the way.

Nothing leaves here that has not opened under its name (sealing.py).
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import redis
import structlog

from services import errors
from services.vault.cold import Cold, ColdUnavailable
from services.vault.drafts import Making
from services.vault.keys import TenantKey
from services.vault.manifest import Manifest
from services.vault.metrics import Metrics
from services.vault.resp import Connections, ValueTooLong
from services.vault.ring import Ring, Slot
from services.vault.sealing import MAX_VALUE, Block, Damaged, Ref, open_manifest, opened, sealed

log = structlog.get_logger(__name__)

_RUN = 4 * 1024 * 1024  # bytes: long enough to fill a pipeline, short enough not to hold a reading twice
_MANIFESTS = 32  # kept in memory, parsed


class Store:
    def __init__(
        self,
        client: redis.Redis,
        connections: Connections,
        ring: Ring,
        cold: Cold | None,
        metrics: Metrics,
        threads: int,
    ) -> None:
        self._redis: Any = client
        self._connections, self.ring, self.cold, self._metrics = connections, ring, cold, metrics
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="vault")
        self._window = 2 * threads
        self._local = threading.local()
        self._manifests: OrderedDict[tuple[str, str], Manifest] = OrderedDict()
        self._lock = threading.Lock()
        self.has_room: Callable[[], bool] = lambda: True  # in Redis, for what comes back from the cold tier

    def close(self) -> None:
        self._pool.shutdown(wait=True)
        self._connections.close()

    # --- out ----------------------------------------------------------------------------------------------------------

    def write(self, tenant: str, makings: Sequence[Making]) -> tuple[list[Ref], int]:
        """Makes and writes blocks, several runs of them at once. Their refs in order, and the bytes that were new."""

        def run(some: list[Making]) -> tuple[list[Ref], int]:
            blocks = [making.make() for making in some]
            return [block.ref for block in blocks], self.put(tenant, blocks)

        runs = list(_runs(makings))
        done = list(self._pool.map(run, runs)) if len(runs) > 1 else [run(some) for some in runs]
        return [ref for refs, _ in done for ref in refs], sum(size for _, size in done)

    def put(self, tenant: str, blocks: Iterable[Block], again: bool = False) -> int:
        """Writes what is not there; returns the bytes that were not. `again`: over what is there, because it is
        damaged.
        """
        blocks = list(blocks)
        items = [(block_key(tenant, block.ref.name), [block.data]) for block in blocks]
        with self._connections.lease() as connection:
            done = connection.set_many(items, nx=not again)
        written = sum(block.ref.size for block, new in zip(blocks, done, strict=True) if new)
        if written:
            self._redis.hincrby(counters_key(tenant), "used", written)
        return written

    def put_manifest(self, tenant: str, key: TenantKey, manifest: Manifest) -> str:
        block = sealed(key, "manifest", (0, 0), manifest.to_bytes())
        self._redis.set(manifest_key(tenant, block.ref.name), bytes(block.data))
        self._keep(tenant, block.ref.name, manifest)
        return block.ref.name

    def ensure_manifest(self, tenant: str, key: TenantKey, name: str) -> None:
        """Into Redis, if it is in this process's memory or in the cold tier only: a head is about to name it."""
        if name and not self._redis.exists(manifest_key(tenant, name)):
            self.put_manifest(tenant, key, self.manifest(tenant, key, name))

    # --- in -----------------------------------------------------------------------------------------------------------

    def manifest(self, tenant: str, key: TenantKey, name: str, fresh: bool = False, promote: bool = True) -> Manifest:
        """`fresh`: not from this process's memory. `promote`: what was in the cold tier only goes back to Redis."""
        with self._lock:
            if not fresh and (tenant, name) in self._manifests:
                self._manifests.move_to_end((tenant, name))
                return self._manifests[tenant, name]
        manifest = Manifest.from_bytes(self._sealed_manifest(tenant, key, name, promote))
        manifest.check()
        self._keep(tenant, name, manifest)
        return manifest

    def _sealed_manifest(self, tenant: str, key: TenantKey, name: str, promote: bool) -> bytes:
        problem = Damaged(name, "the manifest is missing", "missing")
        for tier, get in (("redis", self._manifest_in_redis), ("cold", self._manifest_in_cold)):
            data = get(tenant, name)
            if data is None:
                continue
            try:
                plain = open_manifest(key, name, data)
            except Damaged as damaged:
                self._metrics.damaged(tier, "manifest")
                problem = damaged
                continue
            self._metrics.read(tier, len(data))
            if tier == "cold" and promote:
                self._redis.set(manifest_key(tenant, name), data)
            return plain
        if problem.what == "missing":
            self._metrics.damaged("redis", "missing")
        raise problem

    def _manifest_in_redis(self, tenant: str, name: str) -> bytes | None:
        data: bytes | None = self._redis.get(manifest_key(tenant, name))
        return data

    def _manifest_in_cold(self, tenant: str, name: str) -> bytes | None:
        return self._cold(lambda cold: cold.get(cold_key(tenant, "man", name)))

    def _keep(self, tenant: str, name: str, manifest: Manifest) -> None:
        with self._lock:
            self._manifests[tenant, name] = manifest
            while len(self._manifests) > _MANIFESTS:
                self._manifests.popitem(last=False)

    def forget(self, tenant: str, names: Iterable[str]) -> None:
        """Out of this process's memory: manifests and payloads of deleted readings."""
        gone = list(names)
        with self._lock:
            for name in gone:
                self._manifests.pop((tenant, name), None)
        self.ring.forget(name.encode() for name in gone)

    def fetch(self, tenant: str, key: TenantKey, refs: Iterable[Ref]) -> Iterator[tuple[Ref, memoryview]]:
        """Payloads in the order of `refs`, several on their way at once; each is valid until the next is asked for.

        Raises Damaged at the end, with all names in `bad`, when some are lost in every tier.
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
                    self.ring.release(found)
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
        if (slot := self.ring.find(ref.name.encode())) is not None:
            self._metrics.read("ring", ref.size)
            return slot
        slot = self.ring.acquire()
        try:
            problem = self._into(slot, tenant, key, ref)
        except BaseException:
            self.ring.release(slot)
            raise
        if problem is None:
            self.ring.fill(slot, ref.name.encode(), ref.payload_bytes)
            return slot
        self.ring.release(slot)
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
            length = self._cold(lambda cold: cold.get_into(cold_key(tenant, "blk", ref.name), room))
        except ValueTooLong:
            return room[:0]
        return None if length is None else room[:length]

    def _cold(self, ask: Callable[[Cold], Any]) -> Any:
        """None when there is no cold tier, or it is away: then the tokens are read again. Also for a name that no
        object
        can have: it was damaged where it stood."""
        if self.cold is None:
            return None
        try:
            return ask(self.cold)
        except (ColdUnavailable, errors.InvalidInput) as error:
            log.warning("cold_unavailable", why=error.detail)
            return None

    def _out_of_the_way(self, tenant: str, ref: Ref, tier: str, damaged: Damaged) -> None:
        """What is damaged must not stand in the way of its repair: blocks are written once."""
        self._metrics.damaged(tier, "bytes")
        log.error("block_damaged", tier=tier, why=str(damaged))
        if tier == "redis":
            self._redis.unlink(block_key(tenant, ref.name))
        else:
            self._cold(lambda cold: cold.delete([cold_key(tenant, "blk", ref.name)]))

    def _scratch(self) -> memoryview:
        """One per thread, used again: first touches of fresh memory cost more than the wire."""
        if not hasattr(self._local, "room"):
            self._local.room = memoryview(bytearray(MAX_VALUE))
        room: memoryview = self._local.room
        return room


class Lost(Damaged):
    """Blocks that no tier has whole any more; `bad` are their names."""

    def __init__(self, problems: list[Damaged]) -> None:
        super().__init__(problems[0].name, str(problems[0]), problems[0].what)
        self.bad = frozenset(problem.name for problem in problems)


def _handed(ref: Ref, future: Future[Slot | Damaged], bad: list[Damaged]) -> Iterator[tuple[Ref, memoryview]]:
    found = future.result()
    if isinstance(found, Damaged):
        bad.append(found)
        return
    with found:
        yield ref, found.view(ref.payload_bytes)


def _runs(makings: Iterable[Making]) -> Iterator[list[Making]]:
    run: list[Making] = []
    total = 0
    for making in makings:
        if run and total + making.size > _RUN:
            yield run
            run, total = [], 0
        run.append(making)
        total += making.size
    if run:
        yield run


def block_key(tenant: str, name: str) -> bytes:
    return f"shiori:{{{tenant}}}:blk:{name}".encode()


def manifest_key(tenant: str, name: str) -> str:
    return f"shiori:{{{tenant}}}:man:{name}"


def counters_key(tenant: str) -> str:
    return f"shiori:{{{tenant}}}:counters"


def cold_key(tenant: str, kind: str, name: str) -> str:
    return f"{tenant}/{kind}/{name}"
