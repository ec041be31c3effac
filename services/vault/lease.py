"""One keeper at a time works on a tenant, whatever the number of engines: a lease in Redis."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from services import errors
from services.vault.names import tenant_key

_LEASE_MS = 10_000  # a killed keeper's is in the way for so long
_PATIENCE_S = 30.0
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end"
_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"


class Leases:
    def __init__(self, client: Any) -> None:
        self._client = client
        self._release, self._renew = client.register_script(_RELEASE), client.register_script(_RENEW)
        self.leaving = False  # this process ends: it waits for nobody any more

    @contextmanager
    def hold(self, tenant: str) -> Iterator[Callable[[], None]]:
        """Yields what renews it. Raises Conflict when another keeper does not let go."""
        name, token = tenant_key(tenant, "keeper"), secrets.token_hex(8)
        self._take(name, token)

        def renew() -> None:
            if not self._renew(keys=[name], args=[token, _LEASE_MS]):
                raise errors.Conflict("the keeper's lease was lost", code="keeper_busy")

        try:
            yield renew
        finally:
            self._release(keys=[name], args=[token])

    def _take(self, name: str, token: str) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not self._client.set(name, token, nx=True, px=_LEASE_MS):
            if time.monotonic() > deadline or self.leaving:
                raise errors.Conflict("another keeper is at work on this tenant; try again", code="keeper_busy")
            time.sleep(0.05)
