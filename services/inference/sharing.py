"""What somebody of the tenant has read before: taken over, and marked where a reading leaves it."""

from __future__ import annotations

import time

import structlog

from engine import SnapshotMismatch
from services.inference.places import places, shared_chunks
from services.inference.taking import Taking, Work
from services.vault.drafts import Piece
from services.vault.heads import Head
from services.vault.manifest import Manifest
from services.vault.sealing import Damaged

log = structlog.get_logger(__name__)

_SHORT = 512  # tokens


class Sharing:
    def __init__(self, taking: Taking) -> None:
        self.taking, self.vault, self.driver = taking, taking.vault, taking.driver
        self.fingerprint = taking.empty.fingerprint

    def take_over(self, tenant: str, head: Head, label: str, ids: list[int]) -> tuple[Work | None, int]:
        """(what is known of a segment, taken up; where it leaves a known reading, in tokens: 0 when nowhere)."""
        where = places(head, ids)
        names = self.vault.known(tenant, self.fingerprint, where)
        # A question is sooner computed on what is live than computed at every resume, for want of a rung behind it.
        rungs_only = len(ids) <= _SHORT and self.driver.is_live((tenant, head.digest))
        known = self.vault.find(tenant, self.fingerprint, where, names, rungs_only)
        whole = known is not None and known.position == head.position + len(ids)
        branch = 0 if whole else self._branch(tenant, head, ids, where, names)
        return self._taken(tenant, head, known, label, ids) if known else None, branch

    def _taken(self, tenant: str, head: Head, known: Manifest, label: str, ids: list[int]) -> Work | None:
        """None, and the segment is read, when what is known turns out to be damaged."""
        shared, started = known.position - head.position, time.monotonic()
        try:
            segments = self.vault.at(tenant, head.view).segments if head.view.manifest else ()
            seq = 0 if shared == len(ids) else self.taking.load(tenant, known)
        except (Damaged, SnapshotMismatch) as damaged:
            log.warning("known_reading_damaged", position=known.position, why=str(damaged))
            return None
        self.vault.metrics.shared(shared)
        log.info("taken_over", session=head.session, tokens=shared, of=len(ids))
        work = Work(tenant, head, known, segments, seq, [Piece(label, ids, shared)])
        work.resumed, work.shared, work.restore_ms = known.position, shared, (time.monotonic() - started) * 1000
        return work

    def _branch(
        self, tenant: str, head: Head, ids: list[int], where: list[tuple[int, str]], names: list[str | None]
    ) -> int:
        """Tokens of the segment that another reading has too, on the grid: others may come this way, and part there."""
        other = self.vault.alike(tenant, self.fingerprint, where, names)
        if other is None or other.position <= head.position:
            return 0
        try:
            pieces = self.vault.ids(tenant, other, head.position, head.position + len(ids))
        except Damaged as damaged:
            log.warning("known_reading_damaged", position=other.position, why=str(damaged))
            return 0
        return shared_chunks(ids, [i for _, piece in pieces for i in piece])
