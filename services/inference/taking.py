"""Taking a reading up: from memory, from the vault, or from its tokens; and mending in the vault what was lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import structlog

from engine import Engine, Event, ProvenanceError, SnapshotMismatch
from services import errors
from services.inference.driver import Driver, Stop
from services.inference.states import restore, state_of
from services.vault.drafts import Draft, Piece, State
from services.vault.heads import Head
from services.vault.manifest import Manifest, Segment
from services.vault.sealing import Damaged
from services.vault.store import Lost
from services.vault.vault import Vault

log = structlog.get_logger(__name__)

_WORTH_S = 0.5  # of reading behind the last rung, from which a rung at the head is stored for the next resume
_LOOK_S = 0.2  # whether the caller has left


@dataclass
class Work:
    """A private live copy of a reading, and what was read on top of it so far."""

    tenant: str
    head: Head
    base: Manifest  # has pages and rungs up to where this was last saved
    segments: tuple[Segment, ...]  # of the head
    seq: int = 0  # 0: nothing is live, `base` has all of it
    pieces: list[Piece] = field(default_factory=list)
    resumed: int = 0  # tokens taken from memory or the vault
    shared: int = 0  # of these, read by another reading
    restore_ms: float = 0.0  # 0: it was live
    recomputed: bool = False
    branch: int = 0  # tokens of the segment that another reading has too, and no more: a rung belongs there
    computing_s: float = 0.0  # since `base`
    durable: int = 0  # the watermark: tokens that a kill does not cost

    @property
    def position(self) -> int:
        return sum(segment.tokens for segment in self.segments) + sum(piece.read for piece in self.pieces)

    @property
    def seconds(self) -> float:
        return self.base.seconds + self.computing_s


class Taking:
    def __init__(self, driver: Driver, vault: Vault, empty: Manifest, is_written: Callable[[str, str], bool]) -> None:
        self.driver, self.vault, self.empty, self._is_written = driver, vault, empty, is_written
        self._coming: set[tuple[str, str]] = set()  # (tenant, digest)
        self._came = threading.Condition()

    def blank(self, tenant: str, head: Head | None) -> Work:
        return Work(tenant, head or Head("", 0), self.empty, (), self.driver.call(Engine.open))

    def take(self, tenant: str, head: Head, stop: Stop) -> Work:
        """What the head names, live."""
        live = self.driver.borrow((tenant, head.digest))
        if live is not None:
            return self._looked(tenant, head, live, stop)
        with self._alone((tenant, head.digest), stop):
            return self._resumed(tenant, head, stop)

    def _resumed(self, tenant: str, head: Head, stop: Stop) -> Work:
        started = time.monotonic()
        live = self.driver.borrow((tenant, head.digest))  # by whoever was here before
        work = self._looked(tenant, head, live, stop)
        if live is None:
            work.restore_ms = (time.monotonic() - started) * 1000
            self.vault.metrics.restored(work.restore_ms / 1000, work.resumed)
        return work

    def _looked(self, tenant: str, head: Head, live: int | None, stop: Stop) -> Work:
        try:
            return self._taken(tenant, head, live, stop)
        except Damaged as damaged:
            if live is not None:
                self.driver.close(live)
            raise self._lost(tenant, head, damaged) from damaged

    @contextmanager
    def _alone(self, reading: tuple[str, str], stop: Stop) -> Iterator[None]:
        """Several questions to one reading that is not live: the first brings it back, the others find it."""
        with self._came:
            while reading in self._coming:
                self._came.wait(_LOOK_S)
                stop.check()
            self._coming.add(reading)
        try:
            yield
        finally:
            with self._came:
                self._coming.discard(reading)
                self._came.notify_all()

    def load(self, tenant: str, manifest: Manifest) -> int:
        """The end of a manifest, which has a rung there."""
        rung = manifest.rungs[-1]
        live = self.driver.borrow((tenant, rung.digest))
        if live is not None:
            return live
        return restore(self.driver.engine, self.driver.call, self.vault, tenant, manifest, rung)

    def _taken(self, tenant: str, head: Head, live: int | None, stop: Stop) -> Work:
        view, manifest = self.vault.found(tenant, head.view, (head.draft, head.parent))
        if view != head.view:
            log.error("head_mended", session=head.session, position=head.position)
            self.vault.heads.mend(tenant, head.session, view)
            head = replace(head, view=view)
        if live is not None:
            self.vault.used(tenant, head)
            return Work(tenant, head, manifest, manifest.segments, live, resumed=manifest.position)
        self.vault.heads.touch(tenant, head.session)
        if manifest.fingerprint != self.empty.fingerprint:
            manifest = self._same_by_this_engine(tenant, manifest)
        base, seq, damaged = self._best(tenant, manifest)
        work = Work(tenant, head, base, manifest.segments, seq, resumed=base.position, recomputed=damaged)
        try:
            self._catch_up(work, manifest, stop)
            return self._settled(work, manifest, damaged)
        except BaseException:
            self.driver.close(seq)
            raise

    def _same_by_this_engine(self, tenant: str, manifest: Manifest) -> Manifest:
        """Another model's reading: the same tokens may have been read by this one since; else they are read again."""
        if manifest.tokenizer != self.empty.tokenizer:
            self.vault.metrics.refused("fingerprint")
            raise errors.StateIncompatible(
                "this session was read with another tokenizer; read the source again",
                session_fingerprint=manifest.fingerprint,
                engine_fingerprint=self.empty.fingerprint,
            )
        place = [(manifest.position, manifest.digest)]
        known = self.vault.known(tenant, self.empty.fingerprint, place)
        return self.vault.find(tenant, self.empty.fingerprint, place, known) or manifest

    def _best(self, tenant: str, manifest: Manifest) -> tuple[Manifest, int, bool]:
        """(the furthest place that is whole, a sequence that stands there, whether a further one was not)."""
        bad: frozenset[str] = frozenset()
        ours = manifest.fingerprint == self.empty.fingerprint
        for rung in reversed(manifest.rungs if ours else ()):
            cut = manifest.cut(rung.position, rung.digest)
            if bad & {ref.name for ref in (*cut.pages, *rung.parts)}:
                continue
            try:
                return cut, self.load(tenant, cut), bool(bad)
            except Lost as lost:
                bad |= lost.bad
            except SnapshotMismatch as mismatch:
                log.error("snapshot_mismatch", position=rung.position, why=str(mismatch))
                bad |= {ref.name for ref in rung.parts}
        return self.empty, self.driver.call(Engine.open), bool(bad) or not ours

    def _catch_up(self, work: Work, manifest: Manifest, stop: Stop) -> None:
        """Reads the tokens between the rung and the place, and looks whether they lead there."""
        if manifest.position == work.base.position:
            return
        if work.recomputed:
            log.warning("recomputing", session=work.head.session, start=work.base.position, position=manifest.position)
            self.vault.metrics.recomputed(manifest.position - work.base.position)
        started = time.monotonic()
        for _, ids in self.vault.ids(work.tenant, manifest, since=work.base.position):
            for _ in self.feed(work.seq, ids, stop):
                pass
        work.computing_s = time.monotonic() - started
        digest = self.driver.call(lambda engine: engine.digest(work.seq)).hex()
        if digest != manifest.digest:
            raise Damaged("log", f"reads to {digest[:12]}, not {manifest.digest[:12]}")

    def feed(self, seq: int, ids: list[int], stop: Stop, score: bool = False) -> Iterator[Event]:
        """The events of the engine up to Done."""
        try:
            yield from self.driver.run(lambda engine: engine.read(seq, ids, score=score), stop)
        except errors.ShioriError as error:
            if ProvenanceError.__name__ in error.detail:
                self.vault.metrics.refused("provenance")
            raise

    def _settled(self, work: Work, manifest: Manifest, damaged: bool) -> Work:
        """Stores what was computed again, so that it is done once; and keeps it live for the next call."""
        if damaged:
            self._mend(work, manifest)
        elif manifest.position == work.base.position:
            work.base = manifest
        elif work.computing_s >= _WORTH_S and not self._is_written(work.tenant, work.head.session):
            self._add_rung(work, manifest)
        self.driver.keep_copy((work.tenant, work.head.digest), work.seq)
        return work

    def _mend(self, work: Work, manifest: Manifest) -> None:
        state = self.export(work.seq, 0)
        if manifest.fingerprint == self.empty.fingerprint and self.vault.repair(work.tenant, manifest, state):
            work.base = manifest
            return
        self._store(work, Draft(self.empty, manifest.segments, (), state, work.seconds))

    def _add_rung(self, work: Work, manifest: Manifest) -> None:
        """A head without a rung, taken over from a reading that went on there: the next resume finds one."""
        state = self.export(work.seq, len(work.base.whole_pages()) * work.base.page_tokens)
        try:
            self._store(work, Draft(work.base, manifest.segments, (), state, work.seconds))
        except Damaged as damaged:
            log.warning("rung_not_stored", session=work.head.session, why=str(damaged))

    def _store(self, work: Work, draft: Draft) -> None:
        try:
            work.head, work.base = self.vault.commit(work.tenant, work.head, draft)
            work.computing_s = 0.0
        except errors.Conflict as conflict:  # whoever moved the head meanwhile goes first
            log.warning("rung_not_stored", session=work.head.session, why=conflict.detail)

    def export(self, seq: int, first: int) -> State:
        """State and latents from `first` on, in one command: nothing steps between them."""
        try:
            return state_of(self.driver.call(lambda engine: engine.copy_out(seq, first)).to_host())
        except ProvenanceError:
            self.vault.metrics.refused("provenance")
            raise

    def _lost(self, tenant: str, head: Head, damaged: Damaged) -> errors.ShioriError:
        """Neither state nor tokens are left. Says which bookmark still stands, or that the session is gone by now."""
        self.vault.head(tenant, head.session)
        log.error("reading_lost", session=head.session, why=str(damaged))
        return errors.DataLoss(
            f"the reading of session {head.session!r} is damaged and its tokens are lost: {damaged}",
            session=head.session,
            bookmark=self._last_whole(tenant, head.session),
        )

    def _last_whole(self, tenant: str, session: str) -> str:
        """The furthest bookmark whose state is whole; "" when none is."""
        for mark in reversed(self.vault.marks(tenant, session)):
            try:
                manifest = self.vault.at(tenant, mark.view)
                self.vault.load(tenant, manifest, manifest.rungs[-1], lambda first, rows: None)
                return mark.name
            except (Damaged, IndexError) as damaged:
                log.warning("bookmark_damaged", name=mark.name, why=str(damaged))
        return ""
