"""Reclaiming: what no head, bookmark or history reaches is taken from Redis and from the cold tier.

A block may be named by many manifests (forks, growth, equal texts), so nothing counts references: a sweep marks all
that is reachable and unlinks the rest. Two counters make that safe beside writers, both checked inside scripts: the
unlink happens only if no head moved since the marking (`commits`), and a commit is refused if something was unlinked
since its blocks were written (`sweeps`); it then writes them again. In the cold tier one keeper at a time deletes
(keeper.py has the lock), and whatever is copied down is copied after its head moved.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import structlog

from services.vault import scripts
from services.vault.manifest import Manifest
from services.vault.names import block_key, cold_key, counters_key, known_key, manifest_key
from services.vault.sealing import Damaged
from services.vault.vault import Vault
from services.vault.views import now_ms

log = structlog.get_logger(__name__)

_TRIES = 8


class NotSwept(Exception):
    """A root of this tenant cannot be read: nothing may be taken before it is mended or deleted."""


@dataclass
class Reach:
    """Names of manifests and blocks, with the blocks' sizes."""

    manifests: set[str] = field(default_factory=set)
    blocks: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, manifest: Manifest) -> None:
        self.manifests.add(name)
        self.blocks |= {ref.name: ref.size for ref in manifest.refs()}


@dataclass(frozen=True)
class Swept:
    freed: int
    freed_cold: int
    used: int  # bytes of what is left, each block once


class Sweeper:
    def __init__(self, vault: Vault, client: Any) -> None:
        self._vault, self._redis = vault, client
        self._unlinking = client.register_script(scripts.UNLINK)
        self._unused: dict[str, dict[str, float]] = {}  # objects of the cold tier, and since when
        self._next_end: dict[str, int] = {}  # of an entry of a history, ms of the clock

    def sweep(self, tenant: str, renew: Callable[[], None], grace_s: float) -> Swept:
        """Raises NotSwept when a head or bookmark cannot be read. `renew` is called now and then, and raises when this
        keeper is no longer the one."""
        self._prune(tenant)
        freed, hot, below = self._sweep_redis(tenant)
        sizes = hot.blocks | below.blocks
        self._redis.hset(counters_key(tenant), "used", sum(sizes.values()))
        renew()
        freed_cold = self._sweep_cold(tenant, renew, grace_s)
        self._vault.metrics.freed(freed + freed_cold)
        return Swept(freed, freed_cold, sum(sizes.values()))

    def waiting(self, tenant: str) -> bool:
        """Something in the cold tier waits for its grace to end, or an entry of a history is over by now."""
        return bool(self._unused.get(tenant)) or self._next_end.get(tenant, now_ms() + 1) <= now_ms()

    def _prune(self, tenant: str) -> None:
        """Histories lose what is over, and with it the blocks that only they named."""
        sessions = self._vault.heads.all_sessions(tenant)
        ends = [self._vault.bookmarks.prune(tenant, session) for session in sessions]
        self._next_end.pop(tenant, None)
        if left := [end for end in ends if end is not None]:
            self._next_end[tenant] = min(left)

    def reach(self, tenant: str) -> tuple[Reach, Reach]:
        """What sessions in Redis name, and what those in the cold tier name."""
        hot, cold = Reach(), Reach()
        for session in self._vault.heads.all_sessions(tenant):
            dump = self._vault.heads.dump(tenant, session)
            reach = cold if dump["head"].get("cold") == "1" else hot
            self._add_all(tenant, reach, roots_of(session, dump), strict=True)
            spare = {dump["head"].get(name, "") for name in ("parent", "draft")} - {""}
            self._add_all(tenant, reach, spare, strict=False)
        return hot, cold

    def _add_all(self, tenant: str, reach: Reach, names: Iterable[str], strict: bool) -> None:
        key = self._vault.keys.of(tenant)
        for name in set(names) - reach.manifests:
            try:
                reach.add(name, self._vault.store.manifest(tenant, key, name, promote=False))
            except Damaged as damaged:
                if strict:
                    raise NotSwept(str(damaged)) from damaged

    # --- Redis --------------------------------------------------------------------------------------------------------

    def _sweep_redis(self, tenant: str) -> tuple[int, Reach, Reach]:
        for _ in range(_TRIES):
            commits = self._vault.counter(tenant, "commits")
            hot, below = self.reach(tenant)
            unused = set(self._stored(tenant)) - _keys(tenant, hot)
            unused -= self._only_here(tenant, unused & _keys(tenant, below))
            freed = self._unlink(tenant, commits, unused, self._unknown(tenant, hot, below))
            if freed >= 0:
                self._forget(tenant, unused)
                return freed, hot, below
        return 0, hot, below  # too much is going on; the next sweep takes it

    def _stored(self, tenant: str) -> Iterator[bytes]:
        # Tenants are [A-Za-z0-9_.-]: nothing in them is special to MATCH.
        for pattern in (manifest_key(tenant, "*"), block_key(tenant, "*")):
            yield from self._redis.scan_iter(pattern, count=1000)

    def _only_here(self, tenant: str, keys: set[bytes]) -> set[bytes]:
        """Of blocks of sessions in the cold tier, those that the cold tier does not have after all."""
        cold = self._vault.store.cold
        if cold is None or not keys:
            return keys
        names = {key: cold_key(tenant, *_kind_and_name(key)) for key in keys}
        there = cold.exists(names.values())
        return {key for key, name in names.items() if name not in there}

    def _unknown(self, tenant: str, hot: Reach, below: Reach) -> list[str]:
        there = hot.manifests | below.manifests
        return [name for name, manifest in self._vault.shared.all(tenant).items() if manifest not in there]

    def _unlink(self, tenant: str, commits: str, keys: set[bytes], unknown: list[str]) -> int:
        """The bytes freed; -1, and nothing is, when a head moved since `commits` was read."""
        if not keys and not unknown:
            return 0
        names = [counters_key(tenant), known_key(tenant), *keys]
        return int(self._unlinking(keys=names, args=[commits, *unknown]))

    def _forget(self, tenant: str, keys: Iterable[bytes]) -> None:
        """Also what is in the cold tier still: it is idle, and its plain text need not stay in this process."""
        self._vault.store.forget(tenant, [_kind_and_name(key)[1] for key in keys])

    # --- cold ---------------------------------------------------------------------------------------------------------

    def _sweep_cold(self, tenant: str, renew: Callable[[], None], grace_s: float) -> int:
        """What nobody has named for so long: a Redis that went back in time may name it again."""
        cold = self._vault.store.cold
        if cold is None:
            return 0
        listed = {kind: dict(cold.list(f"{tenant}/{kind}")) for kind in ("man", "blk")}
        renew()
        hot, below = self.reach(tenant)  # after the listing: what was copied down since is not in it
        wanted = {cold_key(tenant, "man", name) for name in hot.manifests | below.manifests}
        wanted |= {cold_key(tenant, "blk", name) for name in hot.blocks | below.blocks}
        unused = {key: size for objects in listed.values() for key, size in objects.items() if key not in wanted}
        now, seen = time.monotonic(), self._unused.get(tenant, {})
        self._unused[tenant] = {key: seen.get(key, now) for key in unused}
        unused = {key: size for key, size in unused.items() if now - self._unused[tenant][key] >= grace_s}
        renew()
        cold.delete(unused)
        return sum(unused.values())


def roots_of(session: str, dump: dict[str, dict[str, str]]) -> set[str]:
    """The manifests that a session must not lose: its head's, its bookmarks', its history's."""
    names = {dump["head"].get("manifest", "")}
    for kind in ("marks", "hist"):
        for raw in dump[kind].values():
            try:
                view = json.loads(raw)
                if kind == "marks" or int(view["until_ms"]) > now_ms():
                    names.add(view["manifest"])
            except (ValueError, KeyError) as error:
                raise NotSwept(f"a bookmark of {session} cannot be read") from error
    return names - {""}


def _keys(tenant: str, reach: Reach) -> set[bytes]:
    manifests = {manifest_key(tenant, name).encode() for name in reach.manifests}
    return manifests | {block_key(tenant, name) for name in reach.blocks}


def _kind_and_name(key: bytes) -> tuple[str, str]:
    kind, name = key.decode().rsplit(":", 2)[1:]
    return kind, name
