"""The keeper's thread: what a commit leaves to be copied down at once, and what is due every few minutes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import redis
import structlog

from services import errors
from services.vault.keys import KeyProblem
from services.vault.sealing import Damaged
from services.vault.sweep import NotSwept
from services.vault.views import now_ms

if TYPE_CHECKING:
    from services.vault.keeper import Keeper

log = structlog.get_logger(__name__)

_GRACE_S = 3600.0  # that the rounds leave what nobody names in the cold tier


class Rounds:
    """`every_s`: between two rounds; 0: none."""

    def __init__(self, keeper: Keeper, every_s: float) -> None:
        self._keeper, self._every_s = keeper, every_s
        self._todo: dict[tuple[str, str], None] = {}
        self._wake, self._leaving = threading.Condition(), False
        self._swept: dict[str, str] = {}
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """What was committed is copied down first."""
        with self._wake:
            self._leaving = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def note(self, tenant: str, session: str) -> None:
        """A head moved: its tokens, manifest and itself are copied down soon."""
        if self._keeper.tiers:
            with self._wake:
                self._todo[tenant, session] = None
                self._wake.notify()

    def _run(self) -> None:
        due = time.monotonic() + self._every_s
        self._quietly(self.rewrap)
        while True:
            with self._wake:
                pause = max(0.0, due - time.monotonic()) if self._every_s else None
                self._wake.wait_for(lambda: self._todo or self._leaving, timeout=pause)
                todo, self._todo = list(self._todo), {}
            for tenant, session in todo:
                self._quietly(lambda t=tenant, s=session: self._keeper.back_up(t, s))  # type: ignore[misc]
            if self._leaving:
                return
            if self._every_s and time.monotonic() >= due:
                self._quietly(self.once)
                due = time.monotonic() + self._every_s

    def rewrap(self) -> None:
        """After a rotation: every tenant's key under the newest master key."""
        keeper, keys = self._keeper, self._keeper.vault.keys
        below = keeper.tiers.tenants() if keeper.tiers and keys.rotating else set()
        for tenant in {*keeper.tenants(), *below}:
            if keys.rewrap(tenant):
                log.info("key_wrapped_again", tenant=tenant, master=keys.newest.id.hex())

    def once(self) -> None:
        """What is idle for long moves down, what is settled is copied, and tenants whose heads moved are swept."""
        keeper = self._keeper
        for used, tenant, session in sorted(keeper.idle(keeper.limits.settled_ms) if keeper.tiers else []):
            if used < now_ms() - keeper.limits.hot_ms:
                keeper.move_down(tenant, session)
            else:
                self._quietly(lambda t=tenant, s=session: keeper.copy_down(t, s))  # type: ignore[misc]
        for tenant in keeper.tenants():
            self._sweep(tenant)

    def _sweep(self, tenant: str) -> None:
        commits = self._keeper.vault.counter(tenant, "commits")
        if self._swept.get(tenant) == commits and not self._keeper.sweeper.waiting(tenant):
            return
        if swept := self._keeper.collect_quietly(tenant, _GRACE_S):
            self._swept[tenant] = commits
            log.info("swept", tenant=tenant, freed=swept.freed, freed_cold=swept.freed_cold, used=swept.used)

    def _quietly(self, do: Callable[[], None]) -> None:
        try:
            do()
        except (Damaged, NotSwept, KeyProblem, redis.exceptions.RedisError, errors.ShioriError) as error:
            log.warning("keeper", why=f"{type(error).__name__}: {error}"[:200])
