"""Between Redis and the cold tier: copies down, moves down, and brings back a session that Redis has lost.

What makes a reading recoverable goes down at once after each commit: token logs, manifest, head. Pages and snapshots
follow when the session is idle or Redis needs the room. A session is *cold* when all of it is below and its blocks
may leave Redis.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import structlog

from services.vault.cold import Cold
from services.vault.manifest import Manifest
from services.vault.names import cold_key, manifest_key, tenant_key
from services.vault.sealing import Damaged, Ref
from services.vault.sweep import roots_of
from services.vault.vault import Vault
from services.vault.views import Head

log = structlog.get_logger(__name__)

Renew = Callable[[], None]


class Tiers:
    def __init__(self, vault: Vault, client: Any, cold: Cold) -> None:
        self._vault, self._redis, self._cold = vault, client, cold

    # --- down ---------------------------------------------------------------------------------------------------------

    def back_up(self, tenant: str, session: str) -> None:
        """Token logs, manifest and head: from these everything else can be computed again."""
        head = self._vault.heads.get(tenant, session)
        if head.view.manifest:
            manifest = self._manifest(tenant, head.view.manifest)
            self._copy(tenant, [ref for segment in manifest.segments for ref in segment.log])
            self._copy_manifest(tenant, head.view.manifest)
        self._put_head(tenant, session)

    def tier_down(self, tenant: str, session: str, renew: Renew = lambda: None) -> int:
        """Copies all of a session down and marks it cold; the next sweep frees it in Redis. Returns bytes copied, or -1
        when somebody used it meanwhile. Raises Damaged when a block of it is lost: then it stays where it is."""
        head = self._vault.heads.get(tenant, session)
        copied = self.copy_down(tenant, session, renew)
        return copied if self._vault.heads.cool(tenant, head) else -1

    def copy_down(self, tenant: str, session: str, renew: Renew = lambda: None) -> int:
        copied = 0
        for name in roots_of(session, self._vault.heads.dump(tenant, session)):
            copied += self._copy(tenant, self._manifest(tenant, name).refs(), renew)
            self._copy_manifest(tenant, name)
        self._put_head(tenant, session)
        self._vault.metrics.tiered_down(copied)
        return copied

    def _manifest(self, tenant: str, name: str) -> Manifest:
        return self._vault.store.manifest(tenant, self._vault.keys.of(tenant), name, promote=False)

    def _copy(self, tenant: str, refs: Iterable[Ref], renew: Renew = lambda: None) -> int:
        """Opened before it is trusted: a damaged block must not become the copy that mends others."""
        wanted = {cold_key(tenant, "blk", ref.name): ref for ref in refs}
        missing = [wanted[key] for key in wanted.keys() - self._cold.exists(wanted)]
        copied = 0
        for ref, data in self._vault.store.blocks.raw(tenant, self._vault.keys.of(tenant), missing):
            self._cold.put(cold_key(tenant, "blk", ref.name), data)
            copied += ref.size
            renew()
        return copied

    def _copy_manifest(self, tenant: str, name: str) -> None:
        key = cold_key(tenant, "man", name)
        if not self._cold.exists([key]):
            data = self._redis.get(manifest_key(tenant, name))
            if data is None:
                raise Damaged(name, "the manifest is missing", "missing")
            self._cold.put(key, data)

    def _put_head(self, tenant: str, session: str) -> None:
        dump = self._vault.heads.dump(tenant, session)
        if dump["head"]:
            sealed = self._vault.keys.of(tenant).seal_text(json.dumps(dump, sort_keys=True), _about(session))
            self._cold.put(cold_key(tenant, "head", session), bytes.fromhex(sealed), replace=True)

    # --- up -----------------------------------------------------------------------------------------------------------

    def revive(self, tenant: str, session: str) -> bool:
        """A session that Redis does not know, from its copy. Its blocks come when they are asked for."""
        data = self._cold.get(cold_key(tenant, "head", session))
        if data is None:
            return False
        plain = self._vault.keys.of(tenant).open_text(data.hex(), _about(session))
        if plain is None:
            self._vault.metrics.damaged("cold", "manifest")
            raise Damaged(session, "its copy in the cold tier is damaged", "head")
        done = self._vault.heads.load(tenant, session, json.loads(plain))
        if done:
            log.warning("session_revived", session=session)
            self._make_known(tenant, self._vault.heads.get(tenant, session))
        return done

    def has_head(self, tenant: str, session: str) -> bool:
        return bool(self._cold.exists([cold_key(tenant, "head", session)]))

    def recover(self, tenant: str) -> tuple[int, int]:
        """All sessions of the cold tier that Redis does not know. (revived, there already)

        Raises Damaged when a copy cannot be opened, after all others are back.
        """
        prefix, done, problem = cold_key(tenant, "head", ""), 0, None
        there = set(self._vault.heads.all_sessions(tenant))
        below = {key[len(prefix) :] for key, _ in self._cold.list(prefix.rstrip("/"))}
        for session in sorted(below - there):
            try:
                done += self.revive(tenant, session)
            except Damaged as damaged:
                problem = damaged
        if problem is not None:
            raise problem
        return done, len(below) - done

    def tenants(self) -> set[str]:
        """Lists all there is."""
        return {key.partition("/")[0] for key, _ in self._cold.list("")}

    def _make_known(self, tenant: str, head: Head) -> None:
        try:
            manifest = self._manifest(tenant, head.view.manifest) if head.view.manifest else None
        except Damaged:
            return
        if manifest:
            self._vault.shared.tell(tenant, manifest, head.view.manifest)

    def drop(self, tenant: str, blocks: Iterable[tuple[str, str]]) -> None:
        """(kind, name): damaged copies, so that whole ones can take their place."""
        kinds = {"manifest": "man"}
        self._cold.delete([cold_key(tenant, kinds.get(kind, "blk"), name) for kind, name in blocks if name])

    def forget_head(self, tenant: str, session: str) -> None:
        """First of all when a session is deleted: no copy may bring it back."""
        self._cold.delete([cold_key(tenant, "head", session)])


def _about(session: str) -> str:
    return f"session {session}"


class TenantKeys:
    """Wrapped data keys, twice in Redis and once in the cold tier: any is enough to read all the others."""

    def __init__(self, client: Any, cold: Cold | None) -> None:
        self._redis, self._cold = client, cold

    def copies(self, tenant: str) -> list[bytes]:
        here = self._redis.mget(_names(tenant))
        below = self._cold.get(f"{tenant}/key") if self._cold else None
        found = [wrapped for wrapped in (*here, below) if wrapped]
        if found and not all(here):
            for name in _names(tenant):
                self._redis.set(name, found[0], nx=True)
        return found

    def put(self, tenant: str, wrapped: bytes, replace: bool = False) -> bytes:
        if self._cold and not self._cold.put(f"{tenant}/key", wrapped, replace=replace):
            wrapped = self._cold.get(f"{tenant}/key") or wrapped
        for name in _names(tenant):
            self._redis.set(name, wrapped, nx=not replace)
        kept: bytes = self._redis.get(_names(tenant)[0])
        return kept


def _names(tenant: str) -> tuple[str, str]:
    return tenant_key(tenant, "key"), tenant_key(tenant, "keycopy")
