"""The vault: readings, written and taken up.

Writing is always blocks, then manifest, then head (heads.py has the argument why a kill at any point is harmless).
What is read is checked block by block before anybody sees a byte of it; what is missing or damaged in every tier is
named in `Lost`, never used.

A sweep (keeper.py) may take blocks between a writer's blocks and its head. The counter `sweeps` makes that safe: a
commit is refused when it moved since the blocks were written, and the writer writes them again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import redis
import structlog

from services import errors
from services.vault.drafts import Draft, Making, State, check_provenance, log_makings, page_makings, part_makings
from services.vault.heads import Head, Heads, Mark, View
from services.vault.keys import Keys, TenantKey
from services.vault.manifest import Layout, Manifest, Rung, Segment, thinned
from services.vault.metrics import Metrics
from services.vault.sealing import Damaged, Ref
from services.vault.store import Store, block_key, cold_key, counters_key

log = structlog.get_logger(__name__)

_TRIES = 8


class BaseLost(Damaged):
    """Pages or rungs that a new reading would share are gone: it must be stored whole."""


class Vault:
    def __init__(self, client: redis.Redis, store: Store, keys: Keys, metrics: Metrics) -> None:
        self._redis: Any = client
        self.store, self.keys, self.metrics = store, keys, metrics
        self.heads = Heads(client, keys)
        self.admit: Callable[[str, int], None] = lambda tenant, size: None  # raises VaultFull; keeper.py
        self.committed: Callable[[str, str], None] = lambda tenant, session: None
        self.wait_durable: Callable[[], None] = lambda: None
        self.revive: Callable[[str, str], bool] = lambda tenant, session: False  # from the cold tier; tiers.py

    # --- out ----------------------------------------------------------------------------------------------------------

    def commit(self, tenant: str, head: Head, draft: Draft, bookmark: str = "") -> tuple[Head, Manifest]:
        """Stores the draft and moves the head to it; both or neither."""
        pinned = self._pinned(tenant, head.session)

        def move(manifest: Manifest, name: str, sweeps: str) -> tuple[str, Head]:
            view = _view(name, manifest)
            known = self.known_names(tenant, manifest, draft.doors)
            said = self.heads.commit(tenant, head, view, sweeps, known, bookmark)
            return said, replace(head, view=view, parent=head.view.manifest, draft="", draft_position=0)

        new, manifest = self._written(tenant, draft, pinned, move)
        self.wait_durable()
        self.committed(tenant, head.session)
        return new, manifest

    def save_draft(self, tenant: str, head: Head, draft: Draft) -> Manifest:
        """Stores a segment as far as it is read. The head stays where it is."""
        pinned = self._pinned(tenant, head.session)

        def move(manifest: Manifest, name: str, sweeps: str) -> tuple[str, Head]:
            known = self.known_names(tenant, manifest, draft.doors)
            return self.heads.draft(tenant, head, name, manifest.position, sweeps, known), head

        _, manifest = self._written(tenant, draft, pinned, move)
        self.wait_durable()
        return manifest

    def _written(
        self, tenant: str, draft: Draft, pinned: frozenset[int], move: Callable[[Manifest, str, str], tuple[str, Head]]
    ) -> tuple[Head, Manifest]:
        started = time.monotonic()
        for attempt in range(_TRIES):
            sweeps = self.counter(tenant, "sweeps")
            if attempt:
                self.metrics.refused("swept")
            self._check_there(tenant, draft)
            manifest, written = self._write(tenant, draft, pinned)
            name = self.store.put_manifest(tenant, self.keys.of(tenant), manifest)
            said, head = self._moved(lambda m=manifest, n=name, s=sweeps: move(m, n, s))  # type: ignore[misc]
            if said == "OK":
                self.metrics.saved(written, time.monotonic() - started)
                return head, manifest
        raise errors.Unavailable("the vault is being swept too often; try again", retry_after=1)

    def _moved(self, move: Callable[[], tuple[str, Head]]) -> tuple[str, Head]:
        try:
            return move()
        except errors.HeadMoved as moved:
            self.metrics.refused("epoch" if moved.code == "epoch_lower" else "head_moved")
            raise

    def _write(self, tenant: str, draft: Draft, pinned: frozenset[int]) -> tuple[Manifest, int]:
        key, base, state = self.keys.of(tenant), draft.base, draft.state
        logs = [(piece, log_makings(key, piece.ids)) for piece in draft.pieces]
        pages, parts = self._makings(key, base, state) if state else ([], [])
        everything = [*(making for _, group in logs for making in group), *pages, *parts]
        self.admit(tenant, sum(making.size for making in everything))
        refs, written = self.store.write(tenant, everything)
        left = iter(refs)
        segments = tuple(Segment(p.read, p.label, tuple(islice(left, len(group))), p.digest) for p, group in logs)
        manifest = replace(base, segments=draft.segments + segments)
        if state:
            new_pages, new_parts = tuple(islice(left, len(pages))), tuple(left)
            rung = Rung(state.position, state.digest, round(draft.seconds, 3), new_parts)
            manifest = _grown(manifest, state, new_pages, rung, pinned)
        manifest.check()
        return manifest, written

    def _makings(self, key: TenantKey, base: Manifest, state: State) -> tuple[list[Making], list[Making]]:
        """Of the pages behind those that stay, and of the snapshot."""
        check_provenance(state, self.metrics)
        kept = len(base.whole_pages()) * base.page_tokens
        if kept < state.first:
            raise ValueError(f"latents begin at {state.first}, the pages that stay end at {kept}")
        starts = range(kept, state.position, base.page_tokens)
        spans = [(at, min(at + base.page_tokens, state.position)) for at in starts]
        return page_makings(key, state, spans), part_makings(key, state, base.page_tokens)

    def _check_there(self, tenant: str, draft: Draft) -> None:
        """A sweep cannot have taken what a head names; but blocks do get lost, and another session's reading that this
        one stands on may have been deleted since."""
        lost = self.absent(tenant, draft.base.refs())
        for ref in lost:
            self.metrics.damaged("redis", "missing")
            log.error("block_lost", kind=ref.kind, first=ref.first, last=ref.last)
        if any(ref.kind != "log" for ref in lost):
            raise BaseLost(lost[0].name, "what this reading stands on is not stored any more", "missing")

    def absent(self, tenant: str, refs: Iterable[Ref]) -> list[Ref]:
        """Of the refs, what no tier below this process has."""
        wanted = list({ref.name: ref for ref in refs}.values())
        pipe = self._redis.pipeline(transaction=False)
        for ref in wanted:
            pipe.exists(block_key(tenant, ref.name))
        missing = [ref for ref, there in zip(wanted, pipe.execute(), strict=True) if not there]
        cold = self.store.cold
        if not missing or cold is None:
            return missing
        below = cold.exists([cold_key(tenant, "blk", ref.name) for ref in missing])
        return [ref for ref in missing if cold_key(tenant, "blk", ref.name) not in below]

    def _pinned(self, tenant: str, session: str) -> frozenset[int]:
        return frozenset(mark.view.position for mark in self.marks(tenant, session) if mark.pinned)

    # --- in -----------------------------------------------------------------------------------------------------------

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
            manifest = self.manifest(tenant, fields.get("manifest", ""))
            position = int(fields.get("position", ""))
        except (Damaged, ValueError):
            raise errors.DataLoss(f"the head of session {session!r} is damaged", session=session) from None
        places = {rung.position: rung.digest for rung in manifest.rungs} | {manifest.position: manifest.digest}
        if position not in places:
            raise errors.DataLoss(f"the head of session {session!r} is damaged", session=session)
        log.error("head_mended", session=session, position=position)
        cut = manifest.cut(position, places[position])
        self.heads.mend(tenant, session, _view(fields["manifest"], cut))

    def put_marks(self, tenant: str, head: Head, manifest: Manifest, places: Iterable[Any]) -> None:
        """Names places (name, position, digest, pinned) of a manifest that the head was just moved to."""
        marks = [
            Mark(p.name, _view(head.view.manifest, manifest.cut(p.position, p.digest)), 0, p.pinned) for p in places
        ]
        self.heads.put_marks(tenant, head.session, marks)
        self.committed(tenant, head.session)

    def marks(self, tenant: str, session: str) -> list[Mark]:
        try:
            return self.heads.marks(tenant, session)
        except Damaged as damaged:
            self.metrics.damaged("redis", "manifest")
            raise errors.DataLoss(f"a bookmark of session {session!r} is damaged", session=session) from damaged

    def manifest(self, tenant: str, name: str) -> Manifest:
        return self.store.manifest(tenant, self.keys.of(tenant), name)

    def at(self, tenant: str, view: View, others: Iterable[str] = ()) -> Manifest:
        """The manifest of a view, cut to it; see `found`."""
        return self.found(tenant, view, others)[1]

    def found(self, tenant: str, view: View, others: Iterable[str] = ()) -> tuple[View, Manifest]:
        """When the view's manifest is lost, one that has the same place: a parallel one, or one of `others`."""
        if not view.manifest:
            raise ValueError("nothing was read yet")
        (known,) = self.heads.known(tenant, [self._known_name(tenant, view.fingerprint, view.digest)])
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

    def load(
        self, tenant: str, manifest: Manifest, rung: Rung, put: Callable[[int, np.ndarray], None]
    ) -> tuple[np.ndarray, ...]:
        """Hands latents up to the rung to `put(first, uint8 [layers, n, row])`, and returns the state's tensors, flat.

        Each is checked before it is handed over. Raises Lost when blocks are damaged in every tier.
        """
        layout = _layout_of(manifest)
        layers = layout.latents[0]
        data = np.empty(sum(ref.payload_bytes for ref in rung.parts), np.uint8)
        pages = [page for page in manifest.pages if page.first < rung.position]
        for ref, payload in self.store.fetch(tenant, self.keys.of(tenant), [*rung.parts, *pages]):
            if ref.kind == "snapshot":
                data[ref.first : ref.last] = np.frombuffer(payload, np.uint8)
            else:
                rows = np.frombuffer(payload, np.uint8).reshape(layers, ref.last - ref.first, -1)
                put(ref.first, rows[:, : rung.position - ref.first])
        return tuple(_split(data, layout))

    def ids(
        self, tenant: str, manifest: Manifest, since: int = 0, until: int | None = None
    ) -> list[tuple[str, list[int]]]:
        """Label and token ids of what was read from position `since` on (and before `until`), segment by segment; the
        first may be a segment's rest, the last its beginning. Of the logs only the blocks that overlap are read.

        Raises Lost when one of those is damaged in every tier.
        """
        wanted = list(_spans(manifest, since, manifest.position if until is None else until))
        refs = [ref for segment, first, last in wanted for ref in segment.log if ref.first < last and first < ref.last]
        words: dict[str, list[int]] = {}
        for ref, payload in self.store.fetch(tenant, self.keys.of(tenant), refs):
            words[ref.name] = np.frombuffer(payload, "<u4").tolist()
        return [(segment.label, _between(segment, first, last, words)) for segment, first, last in wanted]

    # --- what is known ------------------------------------------------------------------------------------------------

    def known(self, tenant: str, fingerprint: str, places: list[tuple[int, str]]) -> list[str | None]:
        """For each place (position, digest): the name of a manifest of this tenant that can be resumed there."""
        return self.heads.known(tenant, [self._known_name(tenant, fingerprint, digest) for _, digest in places])

    def find(
        self,
        tenant: str,
        fingerprint: str,
        places: list[tuple[int, str]],
        known: list[str | None],
        rungs_only: bool = False,
    ) -> Manifest | None:
        """Of places (position, digest) within a segment, the furthest that is known to this tenant; cut to it.

        `known`: what `known` said of them. The last place, the segment's end, is known when some reading went through
        it; the others when it has a rung there to go on from.
        """
        pairs = list(zip(places, known, strict=True))
        for number, ((position, digest), name) in reversed(list(enumerate(pairs, 1))):
            manifest = self._there(tenant, name) if name else None
            if manifest is None or manifest.fingerprint != fingerprint:
                continue
            rungs = {(rung.position, rung.digest) for rung in manifest.rungs}
            end = number == len(pairs) and not rungs_only and manifest.places().get(digest) == position
            if end or (position, digest) in rungs:
                return manifest.cut(position, digest)
        return None

    def _there(self, tenant: str, name: str) -> Manifest | None:
        try:
            return self.manifest(tenant, name)
        except Damaged:
            return None

    def alike(
        self, tenant: str, fingerprint: str, places: list[tuple[int, str]], known: list[str | None]
    ) -> Manifest | None:
        """The reading, uncut, that went furthest along these places, with or without a rung there."""
        for _, name in reversed(list(zip(places, known, strict=True))):
            manifest = self._there(tenant, name) if name else None
            if manifest and manifest.fingerprint == fingerprint:
                return manifest
        return None

    def known_names(self, tenant: str, manifest: Manifest, doors: Iterable[str] = ()) -> list[str]:
        return [self._known_name(tenant, manifest.fingerprint, digest) for digest in (*doors, *manifest.places())]

    def _known_name(self, tenant: str, fingerprint: str, digest: str) -> str:
        return self.keys.of(tenant).name("known", fingerprint, digest)

    # --- mending ------------------------------------------------------------------------------------------------------

    def repair(self, tenant: str, manifest: Manifest, state: State) -> bool:
        """Writes blocks of a manifest again from a state that was computed again. False if a bit differs.

        Under their own names: whoever shares a block (forks, bookmarks) is whole again too, and no head has to move.
        """
        key = self.keys.of(tenant)
        check_provenance(state, self.metrics)
        rung = next((r for r in manifest.rungs if r.position == state.position), None)
        spans = [(ref.first, ref.last) for ref in manifest.pages if ref.last <= state.position]
        makings = page_makings(key, state, spans)
        makings += part_makings(key, state, manifest.page_tokens) if rung else []
        named = {ref.name for ref in manifest.pages} | {ref.name for ref in (rung.parts if rung else ())}
        blocks = [making.make() for making in makings]
        if {block.ref.name for block in blocks} != named:
            return False
        self.store.put(tenant, blocks, again=True)
        return True

    def counter(self, tenant: str, name: str) -> str:
        value = self._redis.hget(counters_key(tenant), name)
        return value.decode() if value else "0"


def _grown(manifest: Manifest, state: State, pages: tuple[Ref, ...], rung: Rung, pinned: frozenset[int]) -> Manifest:
    kept = manifest.whole_pages() + pages
    rungs = (*(r for r in manifest.rungs if r.position < state.position), rung)
    return replace(
        manifest,
        position=state.position,
        digest=state.digest,
        layout=state.layout,
        pages=kept,
        rungs=thinned(rungs, sum(ref.size for ref in kept), pinned),
    )


def _view(name: str, manifest: Manifest) -> View:
    return View(
        manifest=name,
        position=manifest.position,
        digest=manifest.digest,
        fingerprint=manifest.fingerprint,
        segments=len(manifest.segments),
        bytes=manifest.stored_bytes,
    )


def _layout_of(manifest: Manifest) -> Layout:
    if manifest.layout is None:
        raise Damaged("manifest", "it does not say what its bytes are", "manifest")
    return manifest.layout


_WIDTHS = {"F32": 4, "BF16": 2, "F16": 2}


def _split(data: np.ndarray, layout: Layout) -> Iterator[np.ndarray]:
    start = 0
    for _, dtype, shape in layout.tensors:
        size = int(np.prod(shape)) * _WIDTHS[dtype]
        yield data[start : start + size]
        start += size
    if start != data.nbytes:
        raise Damaged("snapshot", f"has {data.nbytes} bytes, its layout {start}")


def _spans(manifest: Manifest, since: int, until: int) -> Iterator[tuple[Segment, int, int]]:
    """(segment, first, last) of what lies in [since, until), in tokens of the segment."""
    start = 0
    for segment in manifest.segments:
        first, last = max(0, since - start), min(segment.tokens, until - start)
        if first < last:
            yield segment, first, last
        start += segment.tokens


def _between(segment: Segment, first: int, last: int, words: dict[str, list[int]]) -> list[int]:
    blocks = [ref for ref in segment.log if ref.first < last and first < ref.last]
    return [i for ref in blocks for i in words[ref.name][max(0, first - ref.first) : last - ref.first]]
