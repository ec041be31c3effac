"""The RPCs of `shiori vault`. Each one translates and hands on to keeper, vault, archive and readings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from services import errors
from services.inference.answers import head_message
from services.inference.calls import Call, rpc, session_id
from services.inference.pb import inference_pb2 as pb
from services.inference.pb import inference_pb2_grpc
from services.inference.repairing import export, load, repair
from services.inference.service import Service
from services.inference.servicer import Servicer
from services.vault.audit import Finding


class Operator(inference_pb2_grpc.VaultServicer):
    """Stands beside the Servicer, and is as loaded as that one."""

    def __init__(self, servicer: Servicer) -> None:
        self._servicer = servicer

    @property
    def service(self) -> Service:
        return self._servicer.service

    @rpc
    def Show(self, request: pb.VaultShowRequest, call: Call) -> pb.VaultReport:
        report = self.service.audit.report(call.tenant)
        tiers = [pb.VaultTier(**vars(tier)) for tier in report.tiers]
        return pb.VaultReport(**(vars(report) | {"tiers": tiers}))

    @rpc
    def Verify(self, request: pb.VaultSessionRequest, call: Call) -> Iterator[pb.VaultFinding]:
        yield from _findings(self.service.audit.verify(call.tenant, _session_or_all(request)), call)

    @rpc
    def Repair(self, request: pb.VaultSessionRequest, call: Call) -> Iterator[pb.VaultFinding]:
        yield from _findings(repair(self.service, call.tenant, _session_or_all(request), call.stop), call)

    @rpc
    def Export(self, request: pb.VaultSessionRequest, call: Call) -> Iterator[pb.VaultChunk]:
        for data in export(self.service, call.tenant, session_id(request.session_id)):
            call.stop.check()
            yield pb.VaultChunk(data=data)

    @rpc
    def Import(self, requests: Iterator[pb.VaultImportRequest], call: Call) -> pb.Session:
        first: Any = next(requests, None)
        if first is None or first.WhichOneof("message") != "session_id":
            raise errors.InvalidInput("the first message of Import is the new session's name")
        service, name = self.service, session_id(first.session_id)
        call.facts["session"] = name
        head = load(service, call.tenant, name, _data(requests, call))
        return pb.Session(session_id=name, head=head_message(head), fingerprint=service.fingerprint)

    @rpc
    def Collect(self, request: pb.VaultShowRequest, call: Call) -> pb.VaultCollectReply:
        swept = self.service.keeper.collect(call.tenant)
        return pb.VaultCollectReply(freed_bytes=swept.freed, freed_cold_bytes=swept.freed_cold)

    @rpc
    def History(self, request: pb.VaultSessionRequest, call: Call) -> pb.VaultHistoryReply:
        vault, name = self.service.vault, session_id(request.session_id)
        vault.heads.get(call.tenant, name)  # an unknown session is told as one
        entries = [
            pb.VaultHistoryEntry(
                head=pb.Head(position=past.view.position, digest=past.view.digest),
                left_ms=int(past.id),  # when it was left
                reason=past.reason,
                until_ms=past.until_ms,
            )
            for past in vault.bookmarks.history(call.tenant, name)
        ]
        return pb.VaultHistoryReply(entries=entries)

    @rpc
    def TierDown(self, request: pb.VaultSessionRequest, call: Call) -> pb.VaultMovedReply:
        sessions, size = self.service.keeper.tier_down(call.tenant, _session_or_all(request))
        return pb.VaultMovedReply(sessions=sessions, bytes=size)

    @rpc
    def Recover(self, request: pb.VaultShowRequest, call: Call) -> pb.VaultRecoverReply:
        recovered, skipped = self.service.keeper.recover(call.tenant)
        return pb.VaultRecoverReply(sessions=recovered, skipped=skipped)


def _session_or_all(request: pb.VaultSessionRequest) -> str:
    return session_id(request.session_id) if request.session_id else ""


def _findings(found: Iterator[Finding], call: Call) -> Iterator[pb.VaultFinding]:
    """Counts go on from one session to the next. What has no `what` is progress; the last message is nothing else."""
    before = checked = total = 0
    for finding in found:
        call.stop.check()
        if not finding.what:
            checked, total = before + finding.checked, before + finding.total
            before = total if finding.checked == finding.total else before
        yield _message(finding, checked, total)
    yield pb.VaultFinding(checked=checked, total=total, done=True)


def _message(finding: Finding, checked: int, total: int) -> pb.VaultFinding:
    return pb.VaultFinding(
        session_id=finding.session,
        block=finding.block,
        kind=finding.kind,
        tier=finding.tier,
        what=finding.what,
        mended=finding.mended,
        checked=checked,
        total=total,
    )


def _data(requests: Iterator[pb.VaultImportRequest], call: Call) -> Iterator[bytes]:
    for request in requests:
        yield request.data
    call.stop.check()  # a broken stream looks like an ended one
