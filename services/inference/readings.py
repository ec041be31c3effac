"""Sessions' readings, between the vault and the engine: take one up, read on, save it.

A caller always works on a private copy (`Work`), which is thrown away or saved whole. So whatever happens to a call,
its session stands at its last whole segment, in the vault and in memory. What was read of a segment that broke off is
kept beside it (a draft), and whoever reads the same tokens again goes on from there.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import structlog

from engine import Event, Progress
from engine.config import GRID
from engine.digest import feed
from services import errors
from services.inference.driver import Driver, Stop
from services.inference.places import doors, ended
from services.inference.sharing import Sharing
from services.inference.taking import Taking, Work
from services.vault.drafts import Draft, Piece
from services.vault.heads import Head, View
from services.vault.manifest import Manifest
from services.vault.vault import BaseLost, Vault

log = structlog.get_logger(__name__)

_PATIENCE_S = 2.0


class Readings:
    def __init__(self, driver: Driver, vault: Vault, empty: Manifest, rung_s: float, history_ms: int) -> None:
        self.driver, self.vault, self.empty = driver, vault, empty
        self.taking = Taking(driver, vault, empty, self.is_written)
        self.sharing = Sharing(self.taking)
        self._rung_s, self._history_ms = rung_s, history_ms
        self._busy: set[tuple[str, str]] = set()
        self._freed = threading.Condition()
        self.speed = 0.0  # tokens a second, of the segment read last

    # --- who may write ------------------------------------------------------------------------------------------------

    @contextmanager
    def writer(self, tenant: str, session: str) -> Iterator[None]:
        """One writer per session. A call that was just cancelled needs up to a step to let go: that much is waited."""
        key = (tenant, session)
        with self._freed:
            if not self._freed.wait_for(lambda: key not in self._busy, timeout=_PATIENCE_S):
                raise errors.Conflict(f"session {session!r} is being written to", code="session_busy", session=session)
            self._busy.add(key)
        try:
            yield
        finally:
            with self._freed:
                self._busy.discard(key)
                self._freed.notify_all()

    def is_written(self, tenant: str, session: str) -> bool:
        return (tenant, session) in self._busy

    @contextmanager
    def writing(self, tenant: str, session: str, expected_digest: str = "", bookmark: str = "") -> Iterator[Head]:
        """The head, for a writer; refused before the epoch is taken, for that fences writers on other replicas."""
        with self.writer(tenant, session):
            self.head(tenant, session, expected_digest)
            if bookmark and self.vault.heads.has_mark(tenant, session, bookmark):
                raise errors.AlreadyExists(f"the name {bookmark!r} is taken", name=bookmark)
            head = self.vault.heads.begin(tenant, session)
            expect(head, expected_digest)  # another engine may have moved it since we looked
            yield head

    def head(self, tenant: str, session: str, expected_digest: str = "") -> Head:
        head = self.vault.head(tenant, session)
        expect(head, expected_digest)
        return head

    # --- work ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def work(self, tenant: str, head: Head | None, stop: Stop) -> Iterator[Work]:
        """A private copy of what `head` names (None: of nothing), closed at the end unless it was saved."""
        has_read = head is not None and head.view.manifest
        work = self.taking.take(tenant, head, stop) if head and has_read else self.taking.blank(tenant, head)
        with self._closing(work):
            yield work

    @contextmanager
    def reading(self, tenant: str, head: Head, label: str, ids: list[int], stop: Stop) -> Iterator[Work]:
        """The same, for a segment: what somebody of this tenant has read of it already is taken over."""
        known, branch = self.sharing.take_over(tenant, head, label, ids)
        with self._closing(known) if known else self.work(tenant, head, stop) as work:
            work.branch = branch
            yield work

    @contextmanager
    def _closing(self, work: Work) -> Iterator[Work]:
        try:
            yield work
        finally:
            if work.seq:
                self.driver.close(work.seq)
            self.vault.metrics.lag(work.head.session, 0, 0)

    def read(self, work: Work, label: str, ids: list[int], stop: Stop, score: bool = False) -> Iterator[Event]:
        """Reads a segment that is not saved on its way: a prompt, an answer."""
        started = time.monotonic()
        yield from self.taking.feed(work.seq, ids, stop, score)
        work.computing_s += time.monotonic() - started
        work.pieces.append(Piece(label, ids, len(ids)))

    def read_segment(self, work: Work, label: str, ids: list[int], stop: Stop) -> Iterator[tuple[int, int]]:
        """Reads what is missing of a segment and saves a rung now and then. Yields (position, durable position)."""
        done = work.pieces[0].read if work.pieces else 0
        work.pieces, work.durable = [Piece(label, ids, done)], work.head.position + done
        yield work.durable, work.durable
        begun = time.monotonic()
        for first, last in itertools.pairwise(sorted({done, max(done, work.branch), len(ids)})):
            yield from self._stretch(work, ids, first, last, stop)
            if last < len(ids):
                self._save_rung(work)
        work.pieces = [Piece(label, ids, len(ids))]
        self.speed = (len(ids) - done) / max(time.monotonic() - begun, 1e-3)

    def _stretch(self, work: Work, ids: list[int], first: int, last: int, stop: Stop) -> Iterator[tuple[int, int]]:
        """`first` lies on the segment's grid, so a segment that is read in stretches comes to the same bits."""
        saved = before = time.monotonic()
        for event in self.taking.feed(work.seq, ids[first:last], stop):
            now = time.monotonic()
            work.computing_s, before = work.computing_s + now - before, now
            if isinstance(event, Progress):
                position = work.head.position + first + event.done
                self.vault.metrics.lag(work.head.session, now - saved, position - work.durable)
                if now - saved >= self._rung_s and event.done < event.total:
                    self._save_rung(work)
                    saved = time.monotonic()
                yield max(position, work.durable), work.durable  # it read on while the rung was saved

    def _save_rung(self, work: Work) -> None:
        """The segment as far as it is read, wherever the engine stands by now."""
        state = self.taking.export(work.seq, self._kept(work))
        (piece,) = work.pieces
        pieces = (replace(piece, read=state.position - work.head.position),)
        draft = Draft(work.base, work.segments, pieces, state, work.seconds, doors(work, pieces))
        try:
            work.base = self.vault.save_draft(work.tenant, work.head, draft)
        except BaseLost as lost:
            work.base = self.vault.save_draft(work.tenant, work.head, self._moved_on(work, draft, lost))
        work.computing_s, work.durable = 0.0, work.base.position

    def save(self, work: Work, bookmark: str = "") -> Head:
        """Blocks, manifest, head; then the copy becomes the live reading that the next call finds."""
        state = self.taking.export(work.seq, self._kept(work)) if work.seq else None
        if state and state.position != work.position:
            raise errors.ShioriError(f"the engine stands at {state.position}, the log at {work.position}")
        pieces = ended(work)
        draft = Draft(work.base, work.segments, pieces, state, work.seconds, doors(work, pieces))
        try:
            head, manifest = self.vault.commit(work.tenant, work.head, draft, bookmark)
        except BaseLost as lost:
            head, manifest = self.vault.commit(work.tenant, work.head, self._whole(work, draft, lost), bookmark)
        if work.seq:
            seq, work.seq = work.seq, 0
            self.driver.keep((work.tenant, head.digest), seq)
        work.head, work.base, work.segments, work.pieces = head, manifest, manifest.segments, []
        return head

    def _moved_on(self, work: Work, draft: Draft, lost: BaseLost) -> Draft:
        """As `_whole`, of a segment that was read on meanwhile."""
        whole = self._whole(work, draft, lost)
        assert whole.state is not None
        return replace(whole, pieces=(replace(whole.pieces[0], read=whole.state.position - work.head.position),))

    def _whole(self, work: Work, draft: Draft, lost: BaseLost) -> Draft:
        """The same reading, sharing nothing: what it stood on was lost in the vault, not here."""
        if not work.seq:
            raise errors.HeadMoved("the reading this one stands on was deleted meanwhile; read it again") from lost
        log.warning("stored_whole", session=work.head.session, why=str(lost))
        return replace(draft, base=self.empty, state=self.taking.export(work.seq, 0))

    def _kept(self, work: Work) -> int:
        return len(work.base.whole_pages()) * work.base.page_tokens

    # --- going back ---------------------------------------------------------------------------------------------------

    def rewind(self, tenant: str, session: str, to: View, reason: str) -> Head:
        self.vault.store.ensure_manifest(tenant, self.vault.keys.of(tenant), to.manifest)
        return self.vault.heads.move(tenant, self.head(tenant, session), to, reason, self._history_ms)

    def view_at(self, tenant: str, head: Head, position: int) -> View:
        """Any position that was read: its last segment cut short, if it lies within one."""
        if not 0 <= position <= head.position or not head.view.manifest:
            raise errors.InvalidInput(
                f"session {head.session!r} has read {head.position} tokens; {position} is not among them",
                field="position",
            )
        manifest = self.vault.at(tenant, head.view)
        rung = max((r for r in manifest.rungs if r.position <= position), key=lambda r: r.position, default=None)
        digest, since = (bytes.fromhex(rung.digest), rung.position) if rung else (bytes(32), 0)
        left = position - since
        for _, ids in self.vault.ids(tenant, manifest, since):
            digest = feed(digest, ids[: max(left, 0)], GRID)
            left -= len(ids)
        cut = manifest.cut(position, digest.hex())
        return replace(head.view, position=position, digest=digest.hex(), segments=len(cut.segments))


def expect(head: Head, digest: str) -> None:
    if digest and digest != head.digest:
        raise errors.HeadMoved(
            f"session {head.session!r} stands at {head.position} tokens, not where you expect it",
            session=head.session,
            position=head.position,
            digest=head.digest,
        )
