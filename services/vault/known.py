"""What a tenant has read, by the rolling digest of what was read: so nobody of the tenant reads it twice.

A hash of Redis: keyed name of (fingerprint, digest) -> a manifest that has a rung there, or whose segment ends there.
Losing it costs reading again; a wrong entry is found out, since a manifest says itself where it has been.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import redis

from services.vault.keys import Keys
from services.vault.manifest import Manifest
from services.vault.names import known_key
from services.vault.sealing import Damaged
from services.vault.views import raw_fields

Place = tuple[int, str]  # position, rolling digest


class Known:
    """`manifest`: of a tenant, by its name; raises Damaged."""

    def __init__(self, client: redis.Redis, keys: Keys, manifest: Callable[[str, str], Manifest]) -> None:
        self._redis: Any = client
        self._keys, self._manifest = keys, manifest

    def ask(self, tenant: str, fingerprint: str, places: list[Place]) -> list[str | None]:
        """For each place the name of a manifest of this tenant that was there. One question, whatever their number."""
        if not places:
            return []
        names = [self._name(tenant, fingerprint, digest) for _, digest in places]
        values = self._redis.hmget(known_key(tenant), names)
        return [value.decode(errors="replace") if value else None for value in values]

    def find(
        self, tenant: str, fingerprint: str, places: list[Place], known: list[str | None], rungs_only: bool = False
    ) -> Manifest | None:
        """Of places within a segment, the furthest that is known to this tenant; cut to it.

        `known`: what `ask` said of them. The last place, the segment's end, is known when some reading went through
        it; the others when it has a rung there to go on from.
        """
        pairs = list(zip(places, known, strict=True))
        for number, ((position, digest), name) in reversed(list(enumerate(pairs, 1))):
            manifest = self._there(tenant, fingerprint, name)
            if manifest is None:
                continue
            rungs = {(rung.position, rung.digest) for rung in manifest.rungs}
            end = number == len(pairs) and not rungs_only and manifest.places().get(digest) == position
            if end or (position, digest) in rungs:
                return manifest.cut(position, digest)
        return None

    def alike(self, tenant: str, fingerprint: str, places: list[Place], known: list[str | None]) -> Manifest | None:
        """The reading, uncut, that went furthest along these places, with or without a rung there."""
        pairs = zip(places, known, strict=True)
        found = (self._there(tenant, fingerprint, name) for _, name in reversed(list(pairs)))
        return next(filter(None, found), None)

    def _there(self, tenant: str, fingerprint: str, name: str | None) -> Manifest | None:
        try:
            manifest = self._manifest(tenant, name) if name else None
        except Damaged:
            return None
        return manifest if manifest and manifest.fingerprint == fingerprint else None

    def names(self, tenant: str, manifest: Manifest, doors: Iterable[str] = ()) -> list[str]:
        """What a manifest is to be known by: its places, and `doors`, digests of others' ways into it."""
        return [self._name(tenant, manifest.fingerprint, digest) for digest in (*doors, *manifest.places())]

    def tell(self, tenant: str, manifest: Manifest, name: str) -> None:
        if mapping := dict.fromkeys(self.names(tenant, manifest), name):
            self._redis.hset(known_key(tenant), mapping=mapping)

    def all(self, tenant: str) -> dict[str, str]:
        """Keyed name of a place -> name of a manifest."""
        return raw_fields(self._redis.hgetall(known_key(tenant)))

    def _name(self, tenant: str, fingerprint: str, digest: str) -> str:
        return self._keys.of(tenant).name("known", fingerprint, digest)
