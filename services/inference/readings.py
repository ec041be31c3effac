"""Sessions' readings, between the vault and the engine: take one up, read on, save it.

A caller always works on a private copy (`Work`), which is thrown away or saved whole. So whatever happens to a call,
its session stands at its last saved segment, in the vault and in memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import structlog

from engine import Engine, Event, Snapshot, SnapshotMismatch
from services import errors
from services.inference.blocks import Damaged, Manifest
from services.inference.driver import Driver, Stop
from services.inference.heads import Head
from services.inference.vault import Draft, State, Vault

log = structlog.get_logger(__name__)

_PATIENCE_S = 2.0


@dataclass
class Work:
    """A private live copy of a reading, and what was read on top of it so far."""

    tenant: str
    head: Head
    base: Manifest
    seq: int
    segments: list[tuple[str, list[int]]] = field(default_factory=list)
    resumed: int = 0  # tokens taken from memory or the vault
    restore_ms: float = 0.0  # 0: it was live
    recomputed: bool = False

    @property
    def position(self) -> int:
        return self.base.position + sum(len(ids) for _, ids in self.segments)


class Readings:
    def __init__(self, driver: Driver, vault: Vault, fingerprint: str, tokenizer: str, page_tokens: int) -> None:
        self.driver, self.vault = driver, vault
        self.fingerprint = fingerprint
        self._empty = Manifest(fingerprint, tokenizer, page_tokens=page_tokens)
        self._busy: set[tuple[str, str]] = set()
        self._freed = threading.Condition()

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

    @contextmanager
    def writing(self, tenant: str, session: str, expected_digest: str = "", bookmark: str = "") -> Iterator[Head]:
        """The head, for a writer; refused before the epoch is taken, for that fences writers on other replicas."""
        with self.writer(tenant, session):
            self.head(tenant, session, expected_digest)
            if bookmark and any(mark.name == bookmark for mark in self.vault.heads.marks(tenant, session)):
                raise errors.AlreadyExists(f"the name {bookmark!r} is taken", name=bookmark)
            yield self.vault.heads.begin(tenant, session)

    def head(self, tenant: str, session: str, expected_digest: str = "") -> Head:
        head = self.vault.heads.get(tenant, session)
        if expected_digest and expected_digest != head.digest:
            raise errors.HeadMoved(
                f"session {session!r} stands at {head.position} tokens, not where you expect it",
                session=session,
                position=head.position,
                digest=head.digest,
            )
        return head

    @contextmanager
    def work(self, tenant: str, head: Head | None, stop: Stop) -> Iterator[Work]:
        """A private copy of what `head` names (None: of nothing), closed at the end unless it was saved."""
        work = self._take_up(tenant, head, stop) if head and head.manifest else self._blank(tenant, head)
        try:
            yield work
        finally:
            if work.seq:
                self.driver.close(work.seq)

    def read(self, work: Work, label: str, ids: list[int], stop: Stop, score: bool = False) -> Iterator[Event]:
        """Reads one segment; the events of the engine up to Done."""
        yield from self.driver.run(lambda engine: engine.read(work.seq, ids, score=score), stop)
        work.segments.append((label, ids))

    def save(self, work: Work, bookmark: str = "") -> Head:
        """Blocks, manifest, head; then the copy becomes the live reading that the next call finds."""
        head, manifest = self.vault.commit(work.tenant, work.head, self._draft(work), bookmark)
        seq, work.seq = work.seq, 0
        self.driver.keep((work.tenant, head.manifest), seq)
        work.head, work.base, work.segments = head, manifest, []
        return head

    # --- taking a reading up ------------------------------------------------------------------------------------------

    def _blank(self, tenant: str, head: Head | None) -> Work:
        return Work(tenant, head or Head("", 0), self._empty, self.driver.call(Engine.open))

    def _take_up(self, tenant: str, head: Head, stop: Stop) -> Work:
        started = time.monotonic()
        live = self.driver.borrow((tenant, head.manifest))
        try:
            manifest = self.vault.manifest(tenant, head.manifest)
            if live is not None:
                return Work(tenant, head, manifest, live, resumed=manifest.position)
            work = self._restored(tenant, head, manifest, stop)
        except Damaged as damaged:
            if live is not None:
                self.driver.close(live)
            raise self._lost(tenant, head, damaged) from damaged
        work.restore_ms = (time.monotonic() - started) * 1000
        return work

    def _restored(self, tenant: str, head: Head, manifest: Manifest, stop: Stop) -> Work:
        """From the stored state; where that cannot be used, from an earlier state and the token log."""
        if manifest.fingerprint != self.fingerprint:
            self._check_same_tokens(manifest)
            return self._recompute(tenant, head, manifest, stop, why="fingerprint")
        try:
            seq = self._load(tenant, manifest)
        except Damaged as damaged:
            return self._recompute(tenant, head, manifest, stop, why=str(damaged))
        self.driver.keep((tenant, head.manifest), seq)
        borrowed = self.driver.borrow((tenant, head.manifest))
        seq = borrowed if borrowed is not None else self._load(tenant, manifest)
        return Work(tenant, head, manifest, seq, resumed=manifest.position)

    def _load(self, tenant: str, manifest: Manifest) -> int:
        state = self.vault.state(tenant, manifest)
        snapshot = Snapshot(state.position, bytes.fromhex(state.digest), state.tensors)
        try:
            return self.driver.call(lambda engine: engine.restore(snapshot, state.latents))
        except SnapshotMismatch as mismatch:
            raise Damaged("snapshot", str(mismatch)) from mismatch

    def _check_same_tokens(self, manifest: Manifest) -> None:
        if manifest.tokenizer == self._empty.tokenizer:
            return
        raise errors.StateIncompatible(
            "this session was read with another tokenizer; read the source again",
            session_fingerprint=manifest.fingerprint,
            engine_fingerprint=self.fingerprint,
        )

    def _recompute(self, tenant: str, head: Head, manifest: Manifest, stop: Stop, why: str) -> Work:
        """Reads the token log again, on top of the furthest earlier reading that is whole."""
        base, seq = self._best_rung(tenant, head, manifest)
        work = Work(tenant, head, base, seq, resumed=base.position, recomputed=True)
        log.warning("recomputing", session=head.session, why=why, start=base.position, position=manifest.position)
        try:
            for label, ids in self.vault.log(tenant, manifest, since=len(base.segments)):
                for _ in self.read(work, label, ids, stop):
                    pass
            digest = self.driver.call(lambda engine: engine.digest(seq)).hex()
            if digest != manifest.digest:
                raise Damaged("log", f"reads to {digest}, not {manifest.digest}")
            return self._repaired(work, manifest)
        except BaseException:
            self.driver.close(seq)
            raise

    def _best_rung(self, tenant: str, head: Head, manifest: Manifest) -> tuple[Manifest, int]:
        for _, rung in self.vault.rungs(tenant, head):
            if rung.fingerprint == self.fingerprint and rung.position < manifest.position and rung.begins(manifest):
                try:
                    return rung, self._load(tenant, rung)
                except Damaged as damaged:
                    log.warning("rung_damaged", position=rung.position, why=str(damaged))
        return self._empty, self.driver.call(Engine.open)

    def _repaired(self, work: Work, manifest: Manifest) -> Work:
        """Stores what was computed again, so that it is done once. Whoever moved the head meanwhile goes first."""
        same_engine = manifest.fingerprint == self.fingerprint
        if same_engine and self.vault.repair(work.tenant, manifest, self._copy_out(work.seq, 0)):
            return replace(work, base=manifest, segments=[])
        try:
            head, manifest = self.vault.commit(work.tenant, work.head, self._draft(work))
        except errors.Conflict as conflict:
            log.warning("repair_not_stored", session=work.head.session, why=conflict.detail)
            return work
        return replace(work, head=head, base=manifest, segments=[])

    def _lost(self, tenant: str, head: Head, damaged: Damaged) -> errors.ShioriError:
        """Neither state nor tokens are left. Says which bookmark still stands, or that the session is gone by now."""
        self.vault.heads.get(tenant, head.session)
        log.error("reading_lost", session=head.session, why=str(damaged))
        return errors.DataLoss(
            f"the reading of session {head.session!r} is damaged and its tokens are lost: {damaged}",
            session=head.session,
            bookmark=self.vault.last_whole(tenant, head.session),
        )

    # --- saving -------------------------------------------------------------------------------------------------------

    def _draft(self, work: Work) -> Draft:
        state = self._copy_out(work.seq, len(work.base.full_pages()) * work.base.page_tokens)
        if state.position != work.position:
            raise errors.ShioriError(f"the engine stands at {state.position}, the log at {work.position}")
        return Draft(work.base, list(work.segments), state)

    def _copy_out(self, seq: int, first: int) -> State:
        """Snapshot and latents from `first` on, in one command: nothing steps between them."""

        def copy(engine: Engine) -> State:
            snapshot = engine.snapshot(seq)
            latents = engine.latents(seq, first, snapshot.position)
            return State(snapshot.position, snapshot.digest.hex(), snapshot.tensors, latents)

        return self.driver.call(copy)
