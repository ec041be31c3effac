"""The vault: readings, written and taken up.

Writing is always blocks, then manifest, then head (heads.py has the argument why a kill at any point is harmless).
What is read is checked block by block before anybody sees a byte of it; what is missing or damaged in every tier is
named in `Lost`, never used.

A sweep (keeper.py) may take blocks between a writer's blocks and its head. The counter `sweeps` makes that safe: a
commit is refused when it moved since the blocks were written, and the writer writes them again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import redis
import structlog

from services import errors
from services.vault import loading
from services.vault.drafts import Draft
from services.vault.heads import Heads
from services.vault.keys import Keys
from services.vault.known import Known
from services.vault.manifest import Manifest, Rung
from services.vault.marks import Marks
from services.vault.metrics import Metrics
from services.vault.names import counters_key
from services.vault.saving import BaseLost, Saver
from services.vault.sealing import Damaged
from services.vault.store import Store
from services.vault.views import Head, Mark, View, now_ms, view_of

__all__ = ["BaseLost", "Vault"]

log = structlog.get_logger(__name__)

_TRIES = 8
_TOUCH_MS = 60_000  # a session in use says so at most so often

Move = Callable[[str, Manifest, str], tuple[str, Head]]


class Vault:
    """`heads` and `bookmarks` say where sessions stand and stood; `shared`, what a tenant has read before.

    `known`, `find` and `alike` are shared's (known.py), `repair` is saving.py's `again`.
    """

    def __init__(self, client: redis.Redis, store: Store, keys: Keys, metrics: Metrics) -> None:
        self._redis: Any = client
        self.store, self.keys, self.metrics = store, keys, metrics
        self.heads = Heads(client, keys)
        self.bookmarks = Marks(client, keys, self.heads.get)
        self.shared = Known(client, keys, self.manifest)
        self.known, self.find, self.alike = self.shared.ask, self.shared.find, self.shared.alike
        self._saver = Saver(store, keys, metrics, lambda tenant, size: self.admit(tenant, size))
        self.repair = self._saver.again
        self.admit: Callable[[str, int], None] = lambda tenant, size: None  # raises VaultFull; keeper.py
        self.committed: Callable[[str, str], None] = lambda tenant, session: None
        self.wait_durable: Callable[[], None] = lambda: None
        self.revive: Callable[[str, str], bool] = lambda tenant, session: False  # from the cold tier; tiers.py

    # --- out ----------------------------------------------------------------------------------------------------------

    def commit(self, tenant: str, head: Head, draft: Draft, bookmark: str = "") -> tuple[Head, Manifest]:
        """Stores the draft and moves the head to it; both or neither."""

        def move(name: str, manifest: Manifest, sweeps: str) -> tuple[str, Head]:
            view = view_of(name, manifest)
            known = self.shared.names(tenant, manifest, draft.doors)
            said = self.heads.commit(tenant, head, view, sweeps, known, bookmark)
            return said, replace(head, view=view, parent=head.view.manifest, draft="")

        new, manifest = self._written(tenant, head.session, draft, move)
        self.wait_durable()
        self.committed(tenant, head.session)
        return new, manifest

    def save_draft(self, tenant: str, head: Head, draft: Draft) -> Manifest:
        """Stores a segment as far as it is read. The head stays where it is."""

        def move(name: str, manifest: Manifest, sweeps: str) -> tuple[str, Head]:
            known = self.shared.names(tenant, manifest, draft.doors)
            return self.heads.draft(tenant, head, name, manifest.position, sweeps, known), head

        _, manifest = self._written(tenant, head.session, draft, move)
        self.wait_durable()
        return manifest

    def _written(self, tenant: str, session: str, draft: Draft, move: Move) -> tuple[Head, Manifest]:
        started = time.monotonic()
        pinned = frozenset(mark.view.position for mark in self.marks(tenant, session) if mark.pinned)
        for attempt in range(_TRIES):
            sweeps = self.counter(tenant, "sweeps")
            if attempt:
                self.metrics.refused("swept")
            self._saver.check_base(tenant, draft)
            name, manifest, written = self._saver.write(tenant, draft, pinned)
            try:
                said, head = move(name, manifest, sweeps)
            except errors.HeadMoved as moved:
                self.metrics.refused("epoch" if moved.code == "epoch_lower" else "head_moved")
                raise
            if said == "OK":
                self.metrics.saved(written, time.monotonic() - started)
                return head, manifest
        raise errors.Unavailable("the vault is being swept too often; try again", retry_after=1)

    # --- heads --------------------------------------------------------------------------------------------------------

    def open(self, tenant: str, session: str, fingerprint: str) -> Head:
        """A new session, or the one that is there, in whatever tier."""
        try:
            return self.head(tenant, session)
        except errors.NotFound:
            return self.heads.open(tenant, session, fingerprint)

    def has(self, tenant: str, session: str) -> bool:
        try:
            self.head(tenant, session)
        except errors.NotFound:
            return False
        return True

    def head(self, tenant: str, session: str) -> Head:
        """In whatever tier. Raises NotFound, and DataLoss when it is damaged and cannot be mended."""
        try:
            return self.heads.get(tenant, session)
        except errors.NotFound:
            if not self.revive(tenant, session):
                raise
            return self.heads.get(tenant, session)
        except Damaged:
            self.metrics.damaged("redis", "manifest")
            self._mend_head(tenant, session)
            return self.heads.get(tenant, session)

    def _mend_head(self, tenant: str, session: str) -> None:
        """A flipped field: the manifest itself says what the view was, if the head stands at its end or on a rung."""
        fields = self.heads.raw(tenant, session)
        try:
            manifest, position = self.manifest(tenant, fields.get("manifest", "")), int(fields.get("position", ""))
        except (Damaged, ValueError):
            raise errors.DataLoss(f"the head of session {session!r} is damaged", session=session) from None
        places = {rung.position: rung.digest for rung in manifest.rungs} | {manifest.position: manifest.digest}
        if position not in places:
            raise errors.DataLoss(f"the head of session {session!r} is damaged", session=session)
        log.error("head_mended", session=session, position=position)
        self.heads.mend(tenant, session, view_of(fields["manifest"], manifest.cut(position, places[position])))

    def used(self, tenant: str, head: Head) -> None:
        """The session was asked, and answered from memory: it is not idle. Written down at most once a minute."""
        if head.cold or head.used_ms < now_ms() - _TOUCH_MS:
            self.heads.touch(tenant, head.session)

    def marks(self, tenant: str, session: str) -> list[Mark]:
        """Bookmarks, in the order of their positions. Raises DataLoss."""
        try:
            return self.bookmarks.all(tenant, session)
        except Damaged as damaged:
            self.metrics.damaged("redis", "manifest")
            raise errors.DataLoss(f"a bookmark of session {session!r} is damaged", session=session) from damaged

    def put_marks(self, tenant: str, head: Head, manifest: Manifest, places: Iterable[Any]) -> None:
        """Names places (name, position, digest, pinned) of a manifest that the head was just moved to."""
        views = [(p, view_of(head.view.manifest, manifest.cut(p.position, p.digest))) for p in places]
        self.bookmarks.put_all(tenant, head.session, [Mark(p.name, view, 0, p.pinned) for p, view in views])
        self.committed(tenant, head.session)

    # --- in -----------------------------------------------------------------------------------------------------------

    def manifest(self, tenant: str, name: str) -> Manifest:
        return self.store.manifest(tenant, self.keys.of(tenant), name)

    def at(self, tenant: str, view: View, others: Iterable[str] = ()) -> Manifest:
        """The manifest of a view, cut to it; see `found`."""
        return self.found(tenant, view, others)[1]

    def found(self, tenant: str, view: View, others: Iterable[str] = ()) -> tuple[View, Manifest]:
        """When the view's manifest is lost, one that has the same place: a parallel one, or one of `others`."""
        if not view.manifest:
            raise ValueError("nothing was read yet")
        (known,) = self.known(tenant, view.fingerprint, [(view.position, view.digest)])
        problem: Damaged | None = None
        for name in dict.fromkeys([view.manifest, known or "", *others]):
            try:
                manifest = self.manifest(tenant, name) if name else None
            except Damaged as damaged:
                problem = problem or damaged
                continue
            if manifest and manifest.fingerprint == view.fingerprint and manifest.position >= view.position:
                return replace(view, manifest=name), manifest.cut(view.position, view.digest)
        raise problem or Damaged(view.manifest, "the manifest is another one", "manifest")

    def load(self, tenant: str, manifest: Manifest, rung: Rung, put: loading.Put) -> tuple[np.ndarray, ...]:
        """Hands latents up to the rung to `put(first, uint8 [layers, n, row])`, and returns the state's tensors, flat.

        Each is checked before it is handed over. Raises Lost when blocks are damaged in every tier.
        """
        return loading.state_at(manifest, rung, self._fetching(tenant), put)

    def ids(
        self, tenant: str, manifest: Manifest, since: int = 0, until: int | None = None
    ) -> list[tuple[str, list[int]]]:
        """As `tokens`, as numbers of Python's."""
        return [(label, ids.tolist()) for label, ids in self.tokens(tenant, manifest, since, until)]

    def tokens(
        self, tenant: str, manifest: Manifest, since: int = 0, until: int | None = None
    ) -> list[tuple[str, np.ndarray]]:
        """Label and token ids (uint32) of what was read from position `since` on (and before `until`), segment by
        segment; the first may be a segment's rest, the last its beginning. Of the logs only the blocks that overlap are
        read. Raises Lost when one of those is damaged in every tier.
        """
        until = manifest.position if until is None else until
        return loading.token_ids(manifest, since, until, self._fetching(tenant))

    def _fetching(self, tenant: str) -> loading.Fetch:
        return partial(self.store.blocks.fetch, tenant, self.keys.of(tenant))

    def counter(self, tenant: str, name: str) -> str:
        value = self._redis.hget(counters_key(tenant), name)
        return value.decode() if value else "0"
