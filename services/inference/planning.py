"""What reading some segments would cost: how much of them somebody of the tenant has read before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from services import errors
from services.inference.calls import session_id
from services.inference.pb import inference_pb2 as pb
from services.inference.places import places
from services.inference.service import Service
from services.inference.text import encode_part
from services.vault.heads import Head, View
from services.vault.manifest import Manifest


def plan(service: Service, tenant: str, requests: Iterator[pb.PlanRequest]) -> pb.PlanReply:
    head = _head(service, tenant, requests)
    segments = _segments(service, requests)
    reply = pb.PlanReply(tokens=sum(len(ids) for ids in segments))
    passed: list[Manifest] = []
    for ids in segments:
        where = places(head, ids)
        known = service.vault.known(tenant, service.fingerprint, where)
        found = service.vault.find(tenant, service.fingerprint, where, known)
        if found is None:
            break
        passed, shared = [*passed, found], found.position - head.position
        reply.known_tokens += shared
        if shared < len(ids):
            break
        reply.known_segments += 1
        head = Head(head.session, 0, View(position=found.position, digest=found.digest))
    reply.from_session, reply.from_bookmark = _whose(service, tenant, passed[-2:])
    if service.readings.speed:
        reply.seconds = (reply.tokens - reply.known_tokens) / service.readings.speed
    return reply


def _head(service: Service, tenant: str, requests: Iterator[pb.PlanRequest]) -> Head:
    first = next(requests, None)
    if first is None or first.WhichOneof("message") != "session_id":
        raise errors.InvalidInput("the first message of Plan names the session")
    try:
        return service.vault.head(tenant, session_id(first.session_id)) if first.session_id else Head("", 0)
    except errors.NotFound:
        return Head("", 0)


def _segments(service: Service, requests: Iterator[pb.PlanRequest]) -> list[list[int]]:
    segments: list[list[int]] = []
    ids: list[int] = []
    for request in requests:
        if request.WhichOneof("message") == "segment_end":
            segments, ids = [*segments, ids] if ids else segments, []
        else:
            ids += encode_part(service.tokenizer, request.part)
    return [*segments, ids] if ids else segments


def _whose(service: Service, tenant: str, passed: list[Manifest]) -> tuple[str, str]:
    """The oldest session that stands at the last of these places, and its last bookmark up to there.

    Nobody stands within a segment: then whoever stands where it begins.
    """
    vault = service.vault
    for place in reversed(passed):
        for session in vault.bookmarks.standing_at(tenant, vault.heads.all_sessions(tenant), place.position):
            with suppress(errors.DataLoss, errors.NotFound):  # somebody else's damage, or gone by now
                marks = [mark for mark in vault.marks(tenant, session) if mark.view.position <= place.position]
                here = {mark.view.digest for mark in marks} | {vault.head(tenant, session).digest}
                if place.digest in here:
                    return session, marks[-1].name if marks else ""
    return "", ""
