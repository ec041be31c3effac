"""The keeper: decides what may come in, what moves down, and what goes.

Its thread copies committed readings' tokens, manifests and heads to the cold tier, sweeps, and moves idle sessions
down. One keeper at a time works on a tenant, whatever the number of engines: a lease in Redis.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import redis
import structlog

from services import errors
from services.vault.cold import ColdUnavailable
from services.vault.heads import now_ms
from services.vault.keys import KeyProblem
from services.vault.sealing import Damaged
from services.vault.store import counters_key
from services.vault.sweep import NotSwept, Sweeper, Swept
from services.vault.tiers import Tiers
from services.vault.vault import Vault

log = structlog.get_logger(__name__)

_LEASE_MS = 10_000  # a killed keeper's is in the way for so long
_GRACE_S = 3600.0  # that the rounds leave what nobody names in the cold tier
_IN_USE_MS = 10_000  # used so lately that moving it down would be felt
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end"
_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"


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
    def __init__(self, vault: Vault, client: Any, limits: Limits, every_s: float) -> None:
        self.vault, self.limits, self.client, self._every_s = vault, limits, client, every_s
        self.sweeper = Sweeper(vault, client)
        cold = vault.store.cold
        self.tiers = Tiers(vault, client, cold) if cold else None
        self._release, self._renew = client.register_script(_RELEASE), client.register_script(_RENEW)
        self._memory: tuple[float, int, int] = (0.0, 0, 0)
        self._todo: dict[tuple[str, str], None] = {}
        self._wake, self._leaving = threading.Condition(), False
        self._swept: dict[str, str] = {}
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        vault.admit, vault.committed = self.admit, self.note
        vault.store.has_room = lambda: self._over(0) <= 0
        if self.tiers:
            vault.revive = self._revive

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """What was committed is copied down first."""
        with self._wake:
            self._leaving = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    # --- what may come in ---------------------------------------------------------------------------------------------

    def admit(self, tenant: str, size: int) -> None:
        """Raises VaultFull. Before Redis itself would refuse, so that heads can always move."""
        quota = self.limits.quota(tenant)
        if quota and self.used(tenant) + size > quota:
            self._collect_quietly(tenant)
            if (used := self.used(tenant)) + size > quota:
                self.vault.metrics.refused("quota")
                raise errors.VaultFull(
                    f"{used:,} of this tenant's {quota:,} bytes are used and {size:,} more are needed; "
                    "delete sources or raise SHIORI_QUOTA_MB",
                    code="quota_exceeded", used=used, quota=quota, wanted=size,
                )  # fmt: skip
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
        for _, tenant, session in sorted(self._idle(_IN_USE_MS)):
            if self._down(tenant, session) >= 0:
                self._collect_quietly(tenant)
                self._memory = (0.0, 0, 0)
            if self._over(size) <= 0:
                return

    # --- what moves down ----------------------------------------------------------------------------------------------

    def note(self, tenant: str, session: str) -> None:
        """A head moved: its tokens, manifest and itself are copied down soon."""
        if self.tiers:
            with self._wake:
                self._todo[tenant, session] = None
                self._wake.notify()

    def tier_down(self, tenant: str, session: str = "") -> tuple[int, int]:
        """(sessions, bytes) that are in the cold tier only from now on."""
        if self.tiers is None:
            raise errors.InvalidInput("there is no cold tier: set SHIORI_COLD_URL")
        names = [session] if session else self.vault.heads.all_sessions(tenant)
        done = [size for name in names if (size := self._down(tenant, name)) >= 0]
        self.collect(tenant)
        return len(done), sum(done)

    def recover(self, tenant: str) -> tuple[int, int]:
        """Sessions that Redis has lost, from the cold tier: (brought back, there already)."""
        if self.tiers is None:
            raise errors.InvalidInput("there is no cold tier: set SHIORI_COLD_URL")
        with self.lease(tenant):
            return self.tiers.recover(tenant)

    def _down(self, tenant: str, session: str) -> int:
        assert self.tiers is not None
        try:
            with self.lease(tenant) as renew:
                return self.tiers.tier_down(tenant, session, renew)
        except (Damaged, errors.NotFound, NotSwept, ColdUnavailable) as error:
            log.warning("stays_hot", session=session, why=str(error))
            return -1

    def _idle(self, since_ms: int) -> Iterator[tuple[int, str, str]]:
        """(last used, tenant, session) of sessions in Redis that nobody used for so long."""
        for tenant in self.tenants():
            for session in self.vault.heads.all_sessions(tenant):
                fields = self.vault.heads.raw(tenant, session)
                used = int(fields.get("used_ms") or 0) if (fields.get("used_ms") or "0").isdigit() else 0
                if fields.get("manifest") and fields.get("cold") != "1" and used < now_ms() - since_ms:
                    yield used, tenant, session

    # --- what goes ----------------------------------------------------------------------------------------------------

    def collect(self, tenant: str, grace_s: float = 0.0) -> Swept:
        """What Redis has lost and the cold tier remembers comes back first: its blocks are not to be taken."""
        with self.lease(tenant) as renew:
            if self.tiers:
                self._all_back(tenant)
            return self.sweeper.sweep(tenant, renew, grace_s)

    def _all_back(self, tenant: str) -> None:
        assert self.tiers is not None
        try:
            self.tiers.recover(tenant)
        except Damaged as damaged:
            raise NotSwept(str(damaged)) from damaged

    def delete(self, tenant: str, session: str) -> int:
        """The session at once, wherever it lies; then what nobody else names. Returns the bytes freed."""
        self.vault.head(tenant, session)
        with self.lease(tenant):  # nobody copies its head down, or brings it back, while it goes
            if self.tiers:
                self.tiers.forget_head(tenant, session)
            self.vault.heads.delete(tenant, session)
        swept = self._collect_quietly(tenant)
        return swept.freed + swept.freed_cold if swept else 0

    def _collect_quietly(self, tenant: str, grace_s: float = 0.0) -> Swept | None:
        try:
            return self.collect(tenant, grace_s)
        except (NotSwept, ColdUnavailable, errors.Conflict) as error:
            log.error("not_swept", tenant=tenant, why=str(error))
            return None

    def tenants(self) -> list[str]:
        keys = self.client.scan_iter("shiori:{*}:counters", count=1000)
        return [key.decode().split("{")[1].split("}")[0] for key in keys]

    # --- one at a time ------------------------------------------------------------------------------------------------

    @contextmanager
    def lease(self, tenant: str, patience_s: float = 30.0) -> Iterator[Callable[[], None]]:
        """Yields what renews it. Raises Conflict when another keeper does not let go."""
        name, token = f"shiori:{{{tenant}}}:keeper", secrets.token_hex(8)
        deadline = time.monotonic() + patience_s
        while not self.client.set(name, token, nx=True, px=_LEASE_MS):
            if time.monotonic() > deadline or self._leaving:
                raise errors.Conflict("another keeper is at work on this tenant; try again", code="keeper_busy")
            time.sleep(0.05)

        def renew() -> None:
            if not self._renew(keys=[name], args=[token, _LEASE_MS]):
                raise errors.Conflict("the keeper's lease was lost", code="keeper_busy")

        try:
            yield renew
        finally:
            self._release(keys=[name], args=[token])

    # --- its thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        rounds = time.monotonic() + self._every_s
        self._quietly(self._rewrap)
        while True:
            with self._wake:
                pause = max(0.0, rounds - time.monotonic()) if self._every_s else None
                self._wake.wait_for(lambda: self._todo or self._leaving, timeout=pause)
                todo, self._todo = list(self._todo), {}
            for tenant, session in todo:
                self._quietly(lambda t=tenant, s=session: self._back_up(t, s))  # type: ignore[misc]
            if self._leaving:
                return
            if self._every_s and time.monotonic() >= rounds:
                self._quietly(self.rounds)
                rounds = time.monotonic() + self._every_s

    def _rewrap(self) -> None:
        """After a rotation: every tenant's key under the newest master key."""
        below = self.tiers.tenants() if self.tiers and self.vault.keys.rotating else set()
        for tenant in {*self.tenants(), *below}:
            if self.vault.keys.rewrap(tenant):
                log.info("key_wrapped_again", tenant=tenant, master=self.vault.keys.newest.id.hex())

    def _revive(self, tenant: str, session: str) -> bool:
        assert self.tiers is not None
        if not self.tiers.has_head(tenant, session):
            return False
        with self.lease(tenant):
            return self.tiers.revive(tenant, session)

    def _back_up(self, tenant: str, session: str) -> None:
        assert self.tiers is not None
        with self.lease(tenant):
            self.tiers.back_up(tenant, session)

    def rounds(self) -> None:
        """What is idle for long moves down, what is settled is copied, and tenants whose heads moved are swept."""
        for used, tenant, session in sorted(self._idle(self.limits.settled_ms) if self.tiers else []):
            if used < now_ms() - self.limits.hot_ms:
                self._down(tenant, session)
            else:
                self._quietly(lambda t=tenant, s=session: self._copy_down(t, s))  # type: ignore[misc]
        for tenant in self.tenants():
            commits = self.vault.counter(tenant, "commits")
            if (self._swept.get(tenant) != commits or self.sweeper.waiting(tenant)) and (
                swept := self._collect_quietly(tenant, _GRACE_S)
            ):
                self._swept[tenant] = commits
                log.info("swept", tenant=tenant, freed=swept.freed, freed_cold=swept.freed_cold, used=swept.used)

    def _copy_down(self, tenant: str, session: str) -> None:
        assert self.tiers is not None
        with self.lease(tenant) as renew:
            self.tiers.copy_down(tenant, session, renew)

    def _quietly(self, do: Callable[[], None]) -> None:
        try:
            do()
        except (Damaged, NotSwept, KeyProblem, redis.exceptions.RedisError, errors.ShioriError) as error:
            log.warning("keeper", why=f"{type(error).__name__}: {error}"[:200])
