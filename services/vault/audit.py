"""Looking at what is stored: what a tenant has where, and whether every block of it still is what its name says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from services import errors
from services.vault.keeper import Keeper
from services.vault.manifest import Manifest
from services.vault.metrics import Stock
from services.vault.names import block_key, cold_key, manifest_key
from services.vault.sealing import Damaged, Ref, open_manifest, opened
from services.vault.sweep import roots_of

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be; or, with no `what`, how far the search is."""

    session: str
    kind: str = ""  # page, snapshot, log, manifest, head
    block: str = ""  # its name
    tier: str = ""
    what: str = ""  # missing, bytes, manifest
    mended: str = ""  # redis, cold, recomputed: where a whole one came from
    checked: int = 0
    total: int = 0


@dataclass(frozen=True)
class Tier:
    name: str
    where: str
    blocks: int
    bytes: int
    limit_bytes: int = 0


@dataclass(frozen=True)
class Report:
    tiers: list[Tier]
    sessions: int
    cold_sessions: int  # in the cold tier only
    quota_bytes: int
    used_bytes: int
    durability: str
    key_id: str
    redis_used_bytes: int
    redis_max_bytes: int
    damaged: int


class Audit:
    def __init__(self, keeper: Keeper, durability: str) -> None:
        self._keeper, self._vault, self._durability = keeper, keeper.vault, durability

    # --- what is where ------------------------------------------------------------------------------------------------

    def report(self, tenant: str) -> Report:
        sessions, cold = self._sessions(tenant)
        used, limit = self._keeper.memory()
        return Report(
            tiers=self._tiers(tenant),
            sessions=sessions,
            cold_sessions=cold,
            quota_bytes=self._keeper.limits.quota(tenant),
            used_bytes=self._keeper.used(tenant),
            durability=self._durability,
            key_id=self._vault.keys.id_of(tenant),
            redis_used_bytes=used,
            redis_max_bytes=limit,
            damaged=self._vault.metrics.all_damaged(),
        )

    def _tiers(self, tenant: str) -> list[Tier]:
        store = self._vault.store
        _, limit = self._keeper.memory()
        ring = store.ring.statistics()
        blocks, size = self._in_redis(tenant)
        found = [
            Tier("ring", "this process", ring.named, ring.bytes),
            Tier("redis", "Redis", blocks, size, limit),
        ]
        if store.cold:
            objects = [size for _, size in store.cold.list(tenant)]
            found.append(Tier("cold", "cold tier", len(objects), sum(objects)))
        return found

    def _in_redis(self, tenant: str) -> tuple[int, int]:
        client, count, size = self._keeper.client, 0, 0
        for pattern in (manifest_key(tenant, "*"), block_key(tenant, "*")):
            keys = list(client.scan_iter(pattern, count=1000))
            pipe = client.pipeline(transaction=False)
            for key in keys:
                pipe.strlen(key)
            count, size = count + len(keys), size + sum(pipe.execute())
        return count, size

    def _sessions(self, tenant: str) -> tuple[int, int]:
        """(all, those in the cold tier only)"""
        heads = self._vault.heads
        raw = [heads.raw(tenant, session) for session in heads.all_sessions(tenant)]
        return len(raw), sum(fields.get("cold") == "1" for fields in raw)

    def stock(self) -> Stock:
        """For the metrics: of all tenants."""
        tenants: dict[tuple[str, str], int] = {}
        blocks: dict[str, int] = {}
        for tenant in self._keeper.tenants():
            for tier in self._tiers(tenant):
                if tier.name != "ring":
                    tenants[tenant, tier.name] = tier.bytes
                    blocks[tier.name] = blocks.get(tier.name, 0) + tier.blocks
        ring = self._vault.store.ring.statistics()
        sizes = {(tier, "block"): sum(n for (_, t), n in tenants.items() if t == tier) for tier in ("redis", "cold")}
        used, limit = self._keeper.memory()
        sizes["ring", "block"], blocks["ring"] = ring.bytes, ring.named
        return Stock(sizes, blocks, tenants, used, limit)

    # --- is it whole --------------------------------------------------------------------------------------------------

    def verify(self, tenant: str, session: str = "") -> Iterator[Finding]:
        """Opens every block that the session (or any) names, in every tier that has it. A finding for each that is
        damaged, and one for each that no tier has; now and then one without a fault that says how far it is."""
        if session:
            yield from self._verify(tenant, session, set())
            return
        seen: set[str] = set()
        for name in self._vault.heads.all_sessions(tenant):
            yield from self._verify_while_there(tenant, name, seen)

    def _verify_while_there(self, tenant: str, session: str, seen: set[str]) -> Iterator[Finding]:
        """The same, of a session that may be deleted or move on meanwhile: what it no longer names is not missing."""
        while True:
            known, faults, named = set(seen), list[Finding](), self._named(tenant, session)
            with suppress(errors.NotFound):
                for finding in self._verify(tenant, session, known):
                    if finding.what:
                        faults.append(finding)
                    else:
                        yield finding
            if named == self._named(tenant, session) or not any(fault.what == "missing" for fault in faults):
                break
        seen |= known
        yield from faults

    def _named(self, tenant: str, session: str) -> tuple[Any, ...]:
        """What a session names, as it lies in Redis."""
        dump = self._vault.heads.dump(tenant, session)
        return dump["head"].get("manifest"), dump["marks"], dump["hist"]

    def _verify(self, tenant: str, session: str, seen: set[str]) -> Iterator[Finding]:
        try:
            self._vault.heads.get(tenant, session)
            self._vault.bookmarks.all(tenant, session)
        except Damaged as damaged:
            yield Finding(session, "head", tier="redis", what=damaged.what)
        manifests = list(self._manifests(tenant, session, seen))
        refs = {ref.name: ref for found in manifests if isinstance(found, Manifest) for ref in found.refs()}
        todo = [ref for name, ref in refs.items() if name not in seen]
        seen |= refs.keys()
        yield from (found for found in manifests if isinstance(found, Finding))
        for number, ref in enumerate(todo, 1):
            yield from self._block(tenant, session, ref)
            if number % 50 == 0 or number == len(todo):
                yield Finding(session, checked=number, total=len(todo))

    def _manifests(self, tenant: str, session: str, seen: set[str]) -> Iterator[Manifest | Finding]:
        dump = self._vault.heads.dump(tenant, session)
        for name in sorted(roots_of(session, dump) - seen):
            seen.add(name)
            copies = self._copies(tenant, "man", name, manifest_key(tenant, name))
            good = None
            for tier, data in copies.items():
                if data is None:
                    continue
                try:
                    good = Manifest.from_bytes(open_manifest(self._vault.keys.of(tenant), name, data))
                except Damaged as damaged:
                    yield Finding(session, "manifest", name, tier, damaged.what)
            if good:
                yield good
            elif not any(copies.values()):
                yield Finding(session, "manifest", name, "redis", "missing")

    def _block(self, tenant: str, session: str, ref: Ref) -> Iterator[Finding]:
        key, plain = self._vault.keys.of(tenant), memoryview(bytearray(ref.payload_bytes))
        copies = self._copies(tenant, "blk", ref.name, block_key(tenant, ref.name))
        for tier, data in copies.items():
            if data is None:
                continue
            try:
                opened(key, ref, memoryview(data), plain)
            except Damaged as damaged:
                self._vault.metrics.damaged(tier, damaged.what)
                yield Finding(session, ref.kind, ref.name, tier, damaged.what)
        if not any(copies.values()):
            self._vault.metrics.damaged("redis", "missing")
            yield Finding(session, ref.kind, ref.name, "redis", "missing")

    def _copies(self, tenant: str, kind: str, name: str, key: str | bytes) -> dict[str, bytes | None]:
        cold = self._vault.store.cold
        return {"redis": self._keeper.client.get(key), "cold": cold.get(cold_key(tenant, kind, name)) if cold else None}
