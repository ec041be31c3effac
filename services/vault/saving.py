"""A draft's blocks and manifest, written; no head names them yet (vault.py moves it)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import structlog

from services.vault.drafts import Draft, Making, State, check_provenance, log_makings, page_makings, part_makings
from services.vault.keys import Keys, TenantKey
from services.vault.manifest import Manifest, Rung, Segment, thinned
from services.vault.metrics import Metrics
from services.vault.sealing import Damaged, Ref
from services.vault.store import Store

log = structlog.get_logger(__name__)


class BaseLost(Damaged):
    """Pages or rungs that a new reading would share are gone: it must be stored whole."""


class Saver:
    """`admit(tenant, bytes)` raises VaultFull."""

    def __init__(self, store: Store, keys: Keys, metrics: Metrics, admit: Callable[[str, int], None]) -> None:
        self._store, self._keys, self._metrics, self._admit = store, keys, metrics, admit

    def check_base(self, tenant: str, draft: Draft) -> None:
        """A sweep cannot have taken what a head names; but blocks do get lost, and another session's reading that this
        one stands on may have been deleted since. Raises BaseLost, but for token logs: whoever reads on needs none.
        """
        lost = self._store.absent(tenant, draft.base.refs())
        for ref in lost:
            self._metrics.damaged("redis", "missing")
            log.error("block_lost", kind=ref.kind, first=ref.first, last=ref.last)
        if any(ref.kind != "log" for ref in lost):
            raise BaseLost(lost[0].name, "what this reading stands on is not stored any more", "missing")

    def write(self, tenant: str, draft: Draft, pinned: frozenset[int]) -> tuple[str, Manifest, int]:
        """Name and manifest, and how many bytes of blocks were new. `pinned`: positions whose rungs stay."""
        key, base, state = self._keys.of(tenant), draft.base, draft.state
        logs = [(piece, log_makings(key, piece.ids)) for piece in draft.pieces]
        pages, parts = self._makings(key, base, state) if state else ([], [])
        everything = [*(making for _, group in logs for making in group), *pages, *parts]
        self._admit(tenant, sum(making.size for making in everything))
        refs, written = self._store.write(tenant, everything)
        left = iter(refs)
        segments = tuple(Segment(p.read, p.label, tuple(islice(left, len(group))), p.digest) for p, group in logs)
        manifest = replace(base, segments=draft.segments + segments)
        if state:
            new_pages, new_parts = tuple(islice(left, len(pages))), tuple(left)
            rung = Rung(state.position, state.digest, round(draft.seconds, 3), new_parts)
            manifest = _grown(manifest, state, new_pages, rung, pinned)
        manifest.check()
        return self._store.put_manifest(tenant, key, manifest), manifest, written

    def _makings(self, key: TenantKey, base: Manifest, state: State) -> tuple[list[Making], list[Making]]:
        """Of the pages behind those that stay, and of the snapshot."""
        check_provenance(state, self._metrics)
        kept = len(base.whole_pages()) * base.page_tokens
        if kept < state.first:
            raise ValueError(f"latents begin at {state.first}, the pages that stay end at {kept}")
        starts = range(kept, state.position, base.page_tokens)
        spans = [(at, min(at + base.page_tokens, state.position)) for at in starts]
        return page_makings(key, state, spans), part_makings(key, state, base.page_tokens)

    def again(self, tenant: str, manifest: Manifest, state: State) -> bool:
        """Writes blocks of a manifest again from a state that was computed again. False if a bit differs.

        Under their own names: whoever shares a block (forks, bookmarks) is whole again too, and no head has to move.
        """
        key = self._keys.of(tenant)
        check_provenance(state, self._metrics)
        rung = next((r for r in manifest.rungs if r.position == state.position), None)
        spans = [(ref.first, ref.last) for ref in manifest.pages if ref.last <= state.position]
        makings = page_makings(key, state, spans)
        makings += part_makings(key, state, manifest.page_tokens) if rung else []
        named = {ref.name for ref in manifest.pages} | {ref.name for ref in (rung.parts if rung else ())}
        blocks = [making.make() for making in makings]
        if {block.ref.name for block in blocks} != named:
            return False
        self._store.put(tenant, blocks, again=True)
        return True


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
