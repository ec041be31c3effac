"""Where readings' blocks and manifests lie: written to Redis, and looked for in this process, in Redis and in the cold
tier.

Blocks come in through fetching.py. Manifests are small and asked for often: the last few stay here, parsed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis

from services.vault.cold import Cold, asked
from services.vault.connections import Connections
from services.vault.drafts import Making, runs
from services.vault.fetching import Fetcher, Lost
from services.vault.keys import TenantKey
from services.vault.manifest import Manifest
from services.vault.metrics import Metrics
from services.vault.names import block_key, cold_key, counters_key, manifest_key
from services.vault.ring import Ring
from services.vault.sealing import Block, Damaged, Ref, open_manifest, sealed

__all__ = ["Lost", "Store", "block_key", "manifest_key"]

_MANIFESTS = 32  # kept in memory, parsed


class Store:
    """`blocks` fetches."""

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
        self.blocks = Fetcher(client, connections, ring, cold, metrics, self._pool, threads)
        self._manifests: OrderedDict[tuple[str, str], Manifest] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        self._pool.shutdown(wait=True)
        self._connections.close()

    def forget(self, tenant: str, names: Iterable[str]) -> None:
        """Out of this process's memory: manifests and payloads of deleted readings."""
        gone = list(names)
        with self._lock:
            for name in gone:
                self._manifests.pop((tenant, name), None)
        self.ring.forget(name.encode() for name in gone)

    # --- blocks -------------------------------------------------------------------------------------------------------

    def write(self, tenant: str, makings: Sequence[Making]) -> tuple[list[Ref], int]:
        """Makes and writes blocks, several runs of them at once. Their refs in order, and the bytes that were new."""

        def write(run: list[Making]) -> tuple[list[Ref], int]:
            blocks = [making.make() for making in run]
            return [block.ref for block in blocks], self.put(tenant, blocks)

        several = list(runs(makings))
        done = list(self._pool.map(write, several)) if len(several) > 1 else [write(run) for run in several]
        return [ref for refs, _ in done for ref in refs], sum(size for _, size in done)

    def put(self, tenant: str, blocks: Iterable[Block], again: bool = False) -> int:
        """Writes what is not there; returns the bytes that were not. `again`: over what is there, and damaged."""
        blocks = list(blocks)
        items = [(block_key(tenant, block.ref.name), [block.data]) for block in blocks]
        with self._connections.lease() as connection:
            done = connection.set_many(items, nx=not again)
        written = sum(block.ref.size for block, new in zip(blocks, done, strict=True) if new)
        if written:
            self._redis.hincrby(counters_key(tenant), "used", written)
        return written

    def absent(self, tenant: str, refs: Iterable[Ref]) -> list[Ref]:
        """Of the refs, what no tier below this process has."""
        wanted = list({ref.name: ref for ref in refs}.values())
        pipe = self._redis.pipeline(transaction=False)
        for ref in wanted:
            pipe.exists(block_key(tenant, ref.name))
        missing = [ref for ref, there in zip(wanted, pipe.execute(), strict=True) if not there]
        if not missing or self.cold is None:
            return missing
        below = self.cold.exists([cold_key(tenant, "blk", ref.name) for ref in missing])
        return [ref for ref in missing if cold_key(tenant, "blk", ref.name) not in below]

    # --- manifests ----------------------------------------------------------------------------------------------------

    def put_manifest(self, tenant: str, key: TenantKey, manifest: Manifest) -> str:
        """Returns its name."""
        block = sealed(key, "manifest", (0, 0), manifest.to_bytes())
        self._redis.set(manifest_key(tenant, block.ref.name), bytes(block.data))
        self._keep(tenant, block.ref.name, manifest)
        return block.ref.name

    def ensure_manifest(self, tenant: str, key: TenantKey, name: str) -> None:
        """Into Redis, if it is in this process's memory or in the cold tier only: a head is about to name it."""
        if name and not self._redis.exists(manifest_key(tenant, name)):
            self.put_manifest(tenant, key, self.manifest(tenant, key, name))

    def manifest(self, tenant: str, key: TenantKey, name: str, promote: bool = True) -> Manifest:
        """`promote`: what was in the cold tier only goes back to Redis. Raises Damaged."""
        with self._lock:
            if (tenant, name) in self._manifests:
                self._manifests.move_to_end((tenant, name))
                return self._manifests[tenant, name]
        manifest = Manifest.from_bytes(self._manifest_bytes(tenant, key, name, promote))
        manifest.check()
        self._keep(tenant, name, manifest)
        return manifest

    def _manifest_bytes(self, tenant: str, key: TenantKey, name: str, promote: bool) -> bytes:
        """Plain, from the first tier whose copy opens."""
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
        return asked(self.cold, lambda cold: cold.get(cold_key(tenant, "man", name)))

    def _keep(self, tenant: str, name: str, manifest: Manifest) -> None:
        with self._lock:
            self._manifests[tenant, name] = manifest
            while len(self._manifests) > _MANIFESTS:
                self._manifests.popitem(last=False)
