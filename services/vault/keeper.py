"""The keeper: decides what may come in, what moves down, and what goes.

Its thread (rounds.py) copies committed readings' tokens, manifests and heads to the cold tier, sweeps, and moves idle
sessions down. One keeper at a time works on a tenant (lease.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from services import errors
from services.vault.cold import ColdUnavailable
from services.vault.lease import Leases
from services.vault.names import counters_key
from services.vault.rounds import Rounds
from services.vault.sealing import Damaged
from services.vault.sweep import NotSwept, Sweeper, Swept
from services.vault.tiers import Tiers
from services.vault.vault import Vault
from services.vault.views import now_ms, number

log = structlog.get_logger(__name__)

_IN_USE_MS = 10_000  # used so lately that moving it down would be felt


@dataclass(frozen=True)
class Limits:
    max_bytes: int = 0  # of Redis; 0: its own maxmemory
    high_water: float = 0.8  # of that; above it, readings move down, and then new ones are refused
    hot_ms: int = 7 * 24 * 3600 * 1000  # idle for longer: to the cold tier
    settled_ms: int = 120_000  # idle for longer: a copy of all of it goes down
    quotas: Mapping[str, int] = field(default_factory=dict)  # bytes by tenant; "" is everybody else's; 0: none

    def quota(self, tenant: str) -> int:
        return self.quotas.get(tenant, self.quotas.get("", 0))


class Keeper:
    """`lease(tenant)`: see lease.py."""

    def __init__(self, vault: Vault, client: Any, limits: Limits, every_s: float) -> None:
        self.vault, self.limits, self.client = vault, limits, client
        self.sweeper = Sweeper(vault, client)
        cold = vault.store.cold
        self.tiers = Tiers(vault, client, cold) if cold else None
        self.rounds = Rounds(self, every_s)
        self._leases = Leases(client)
        self.lease = self._leases.hold
        self._memory: tuple[float, int, int] = (0.0, 0, 0)
        vault.admit, vault.committed = self.admit, self.rounds.note
        vault.store.blocks.has_room = lambda: self._over(0) <= 0
        if self.tiers:
            vault.revive = self._revive

    def start(self) -> None:
        self.rounds.start()

    def stop(self) -> None:
        """What was committed is copied down first."""
        self._leases.leaving = True
        self.rounds.stop()

    # --- what may come in ---------------------------------------------------------------------------------------------

    def admit(self, tenant: str, size: int) -> None:
        """Raises VaultFull. Before Redis itself would refuse, so that heads can always move."""
        quota = self.limits.quota(tenant)
        if quota and self.used(tenant) + size > quota:
            self.collect_quietly(tenant)
            if (used := self.used(tenant)) + size > quota:
                self.vault.metrics.refused("quota")
                raise errors.VaultFull(
                    f"{used:,} of this tenant's {quota:,} bytes are used and {size:,} more are needed; "
                    "delete sources or raise SHIORI_QUOTA_MB",
                    code="quota_exceeded", used=used, quota=quota, wanted=size,
                )  # fmt: skip
        if self._over(size) > 0:
            self._memory = (0.0, 0, 0)  # nothing is moved or refused by figures of a second ago
            if self._over(size) > 0:
                self._relieve(size)
            if self._over(size) > 0:
                self.vault.metrics.refused("full")
                _, used, limit = self._memory
                raise errors.VaultFull(
                    f"Redis holds {used:,} of {limit:,} bytes and nothing idle can move down; "
                    "delete sources, or give Redis more memory",
                    used=used, limit=limit, wanted=size, retry_after=30,
                )  # fmt: skip

    def used(self, tenant: str) -> int:
        return int(self.client.hget(counters_key(tenant), "used") or 0)

    def memory(self) -> tuple[int, int]:
        """Bytes that Redis uses, and its limit (0: none); at most a second old."""
        asked, used, limit = self._memory
        if time.monotonic() - asked > 1:
            info = self.client.info("memory")
            used, limit = int(info["used_memory"]), self.limits.max_bytes or int(info.get("maxmemory", 0))
            self._memory = (time.monotonic(), used, limit)
        return used, limit

    def _over(self, size: int) -> int:
        used, limit = self.memory()
        return used + size - int(limit * self.limits.high_water) if limit else 0

    def _relieve(self, size: int) -> None:
        """Moves the longest idle sessions of all tenants down until there is room."""
        if self.tiers is None:
            return
        for _, tenant, session in sorted(self.idle(_IN_USE_MS)):
            if self.move_down(tenant, session) >= 0:
                self.collect_quietly(tenant)
                self._memory = (0.0, 0, 0)
            if self._over(size) <= 0:
                return

    # --- between Redis and the cold tier ------------------------------------------------------------------------------

    def idle(self, since_ms: int) -> Iterator[tuple[int, str, str]]:
        """(last used, tenant, session) of sessions in Redis that nobody used for so long."""
        for tenant in self.tenants():
            for session in self.vault.heads.all_sessions(tenant):
                fields = self.vault.heads.raw(tenant, session)
                used = number(fields, "used_ms")
                if fields.get("manifest") and fields.get("cold") != "1" and used < now_ms() - since_ms:
                    yield used, tenant, session

    def tier_down(self, tenant: str, session: str = "") -> tuple[int, int]:
        """(sessions, bytes) that are in the cold tier only from now on."""
        self._below()
        names = [session] if session else self.vault.heads.all_sessions(tenant)
        done = [size for name in names if (size := self.move_down(tenant, name)) >= 0]
        self.collect(tenant)
        return len(done), sum(done)

    def recover(self, tenant: str) -> tuple[int, int]:
        """Sessions that Redis has lost, from the cold tier: (brought back, there already)."""
        tiers = self._below()
        with self.lease(tenant):
            return tiers.recover(tenant)

    def move_down(self, tenant: str, session: str) -> int:
        """Bytes copied; -1 when it stays where it is."""
        try:
            with self.lease(tenant) as renew:
                return self._below().tier_down(tenant, session, renew)
        except (Damaged, errors.NotFound, NotSwept, ColdUnavailable) as error:
            log.warning("stays_hot", session=session, why=str(error))
            return -1

    def copy_down(self, tenant: str, session: str) -> None:
        with self.lease(tenant) as renew:
            self._below().copy_down(tenant, session, renew)

    def back_up(self, tenant: str, session: str) -> None:
        with self.lease(tenant):
            self._below().back_up(tenant, session)

    def _revive(self, tenant: str, session: str) -> bool:
        tiers = self._below()
        if not tiers.has_head(tenant, session):
            return False
        with self.lease(tenant):
            return tiers.revive(tenant, session)

    def _below(self) -> Tiers:
        if self.tiers is None:
            raise errors.InvalidInput("there is no cold tier: set SHIORI_COLD_URL")
        return self.tiers

    # --- what goes ----------------------------------------------------------------------------------------------------

    def collect(self, tenant: str, grace_s: float = 0.0) -> Swept:
        """What Redis has lost and the cold tier remembers comes back first: its blocks are not to be taken."""
        with self.lease(tenant) as renew:
            if self.tiers:
                self._all_back(self.tiers, tenant)
            return self.sweeper.sweep(tenant, renew, grace_s)

    def _all_back(self, tiers: Tiers, tenant: str) -> None:
        try:
            tiers.recover(tenant)
        except Damaged as damaged:
            raise NotSwept(str(damaged)) from damaged

    def collect_quietly(self, tenant: str, grace_s: float = 0.0) -> Swept | None:
        try:
            return self.collect(tenant, grace_s)
        except (NotSwept, ColdUnavailable, errors.Conflict) as error:
            log.error("not_swept", tenant=tenant, why=str(error))
            return None

    def delete(self, tenant: str, session: str) -> int:
        """The session at once, wherever it lies; then what nobody else names. Returns the bytes freed."""
        self.forget(tenant, session)
        swept = self.collect_quietly(tenant)
        return swept.freed + swept.freed_cold if swept else 0

    def forget(self, tenant: str, session: str) -> None:
        """The session at once, wherever it lies; what only it named stays until the next sweep. Raises NotFound."""
        self.vault.head(tenant, session)
        with self.lease(tenant):  # nobody copies its head down, or brings it back, while it goes
            if self.tiers:
                self.tiers.forget_head(tenant, session)
            self.vault.heads.delete(tenant, session)

    def tenants(self) -> list[str]:
        keys = self.client.scan_iter("shiori:{*}:counters", count=1000)
        return [key.decode().split("{")[1].split("}")[0] for key in keys]
