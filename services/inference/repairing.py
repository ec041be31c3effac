"""What an operator does with readings: mends them, takes them out as files, puts files in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

import structlog

from engine.config import GRID
from engine.digest import of_segments
from services import errors
from services.inference.driver import Stop
from services.inference.service import Service
from services.vault import archive
from services.vault.audit import Finding
from services.vault.drafts import Draft
from services.vault.heads import Head
from services.vault.sealing import Damaged

_OTHER = {"redis": "cold", "cold": "redis"}

log = structlog.get_logger(__name__)


def repair(service: Service, tenant: str, session: str, stop: Stop) -> Iterator[Finding]:
    """Mends what verify finds: from the other tier, or by reading again from the tokens."""
    if session:
        yield from _repair(service, tenant, session, stop)
        return
    for name in service.vault.heads.all_sessions(tenant):
        with suppress(errors.NotFound):  # deleted since they were listed
            yield from _repair(service, tenant, name, stop)


def _repair(service: Service, tenant: str, name: str, stop: Stop) -> Iterator[Finding]:
    bad = []
    for finding in service.audit.verify(tenant, name):
        if finding.what:
            bad.append(finding)
        else:
            yield finding
    if bad:
        yield from _mended(service, tenant, name, bad, stop)


def _mended(service: Service, tenant: str, name: str, bad: list[Finding], stop: Stop) -> Iterator[Finding]:
    service.driver.forget(tenant)
    service.vault.store.forget(tenant, [finding.block for finding in bad])
    how = _read_through(service, tenant, name, stop)
    if service.keeper.tiers:
        _copied_again(service, tenant, name, bad)
    left = {
        (f.kind, f.block) for f in service.audit.verify(tenant, name) if f.what
    }  # what was thrown away is missing now
    for finding in bad:
        lost = (finding.kind, finding.block) in left
        yield finding if lost else replace(finding, mended=how or _OTHER[finding.tier])


def _read_through(service: Service, tenant: str, name: str, stop: Stop) -> str:
    """Every place of the session is taken up once: "recomputed" when that took reading again, else ""."""
    how = ""
    head = service.vault.head(tenant, name)
    views = [mark.view for mark in service.vault.marks(tenant, name)] + [head.view]
    for view in dict.fromkeys(view for view in views if view.manifest):
        try:
            service.vault.ids(tenant, service.vault.at(tenant, view))
            with service.readings.work(tenant, replace(head, view=view), stop) as work:
                how = "recomputed" if work.recomputed else how
        except (Damaged, errors.ShioriError) as error:
            log.error("not_mended", session=name, position=view.position, why=str(error))
    return how


def _copied_again(service: Service, tenant: str, name: str, bad: list[Finding]) -> None:
    """A damaged copy in the cold tier: out of the way, and down again from Redis."""
    assert service.keeper.tiers is not None
    service.keeper.tiers.drop(tenant, [(f.kind, f.block) for f in bad if f.tier == "cold"])
    try:
        with service.keeper.lease(tenant) as renew:
            service.keeper.tiers.copy_down(tenant, name, renew)
    except Damaged as damaged:
        log.error("not_copied_down", session=name, why=str(damaged))


def export(service: Service, tenant: str, session: str) -> Iterator[bytes]:
    head = service.vault.head(tenant, session)
    if not head.view.manifest:
        raise errors.InvalidInput(f"session {session!r} has read nothing")
    marks = service.vault.marks(tenant, session)
    yield from archive.export(service.vault, tenant, service.vault.at(tenant, head.view), marks)


def load(service: Service, tenant: str, session: str, data: Iterable[bytes]) -> Head:
    """A new session from a file. Its digest must follow from its own tokens."""
    vault = service.vault
    if vault.has(tenant, session):
        raise errors.AlreadyExists(f"there is a session {session!r} already", session=session)
    vault.heads.open(tenant, session, service.fingerprint)
    try:
        manifest, marks = archive.load(vault, tenant, data, service.fingerprint, service.tokenizer.digest)
        segments = [ids for _, ids in vault.ids(tenant, manifest)]
        if of_segments(segments, GRID).hex() != manifest.digest:
            raise archive.Refused("its tokens do not lead to its digest")
        head = vault.heads.begin(tenant, session)
        head, manifest = vault.commit(tenant, head, Draft(manifest, manifest.segments, (), None, manifest.seconds))
        vault.put_marks(tenant, head, manifest, marks)
        return head
    except BaseException:
        service.keeper.delete(tenant, session)
        raise
