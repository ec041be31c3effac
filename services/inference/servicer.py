"""The RPCs. Each one translates, and hands on to readings (state) and answers (decoding)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from services import errors
from services.inference import answers
from services.inference.answers import check_room, head_message
from services.inference.calls import Call, bookmark_name, rpc, session_id
from services.inference.pb import inference_pb2 as pb
from services.inference.pb import inference_pb2_grpc
from services.inference.planning import plan
from services.inference.service import Service
from services.inference.taking import Work
from services.inference.text import Detokenizer, encode_part, encode_parts
from services.vault.views import Head, Mark, View

_PROGRESS_EVERY_S = 0.1


class Servicer(inference_pb2_grpc.InferenceServicer):
    def __init__(self) -> None:
        self.loaded: Service | None = None
        self.draining = False

    @property
    def service(self) -> Service:
        if self.loaded is None or self.draining:
            raise errors.EngineUnavailable("stopping" if self.draining else "the model is being loaded", retry_after=1)
        return self.loaded

    # --- the model ----------------------------------------------------------------------------------------------------

    @rpc
    def Describe(self, request: pb.DescribeRequest, call: Call) -> pb.DescribeReply:
        service = self.service
        info = service.info()
        names = Detokenizer(service.tokenizer)
        return pb.DescribeReply(
            model=service.model,
            fingerprint=service.fingerprint,
            parameters=service.parameters,
            context_tokens=service.context_tokens,
            grid_tokens=int(info.contract["grid"]),
            page_tokens=info.page_tokens,
            page_bytes=info.page_bytes,
            snapshot_bytes=info.snapshot_bytes,
            slots_total=info.slots_total,
            slots_free=info.slots_free,
            pages_total=info.pages_total,
            pages_free=info.pages_free,
            device=info.device,
            special_tokens=[names.special(i) for i in sorted(service.tokenizer.specials.values())],
        )

    @rpc
    def CountTokens(self, request: pb.CountTokensRequest, call: Call) -> pb.CountTokensReply:
        return pb.CountTokensReply(tokens=len(encode_parts(self.service.tokenizer, request.parts)))

    # --- sessions -----------------------------------------------------------------------------------------------------

    @rpc
    def OpenSession(self, request: pb.OpenSessionRequest, call: Call) -> pb.Session:
        service, name = self.service, session_id(request.session_id)
        return self._session(call, service.vault.open(call.tenant, name, service.fingerprint))

    @rpc
    def DescribeSession(self, request: pb.SessionRequest, call: Call) -> pb.Session:
        return self._session(call, self.service.vault.head(call.tenant, session_id(request.session_id)))

    @rpc
    def ListSessions(self, request: pb.ListSessionsRequest, call: Call) -> pb.ListSessionsReply:
        vault = self.service.vault
        found = []
        for name in vault.heads.sessions(call.tenant, min(request.limit or 100, 1000), request.after):
            try:
                found.append(self._session(call, vault.head(call.tenant, name)))
            except errors.NotFound:
                continue  # deleted while we looked
        return pb.ListSessionsReply(sessions=found)

    @rpc
    def DeleteSession(self, request: pb.DeleteSessionRequest, call: Call) -> pb.DeleteSessionReply:
        """Wins over a writer: its commit finds the head gone."""
        service, name = self.service, session_id(request.session_id)
        if request.later:
            service.keeper.forget(call.tenant, name)
            return pb.DeleteSessionReply()
        freed = service.keeper.delete(call.tenant, name)
        service.driver.forget(call.tenant)
        return pb.DeleteSessionReply(freed_bytes=freed)

    @rpc
    def ForkSession(self, request: pb.ForkSessionRequest, call: Call) -> pb.Session:
        vault, name, new = self.service.vault, session_id(request.session_id), session_id(request.new_session_id)
        try:
            head = vault.heads.fork(call.tenant, name, new, request.bookmark)
        except errors.NotFound:
            vault.head(call.tenant, name)  # perhaps it is in the cold tier
            head = vault.heads.fork(call.tenant, name, new, request.bookmark)
        return self._session(call, head)

    @rpc
    def RewindSession(self, request: pb.RewindSessionRequest, call: Call) -> pb.Session:
        readings, name = self.service.readings, session_id(request.session_id)
        with readings.writer(call.tenant, name):
            view = self._place(call, name, request)
            return self._session(
                call, readings.rewind(call.tenant, name, view, f"rewind by {call.request_id or 'hand'}")
            )

    def _place(self, call: Call, name: str, request: pb.RewindSessionRequest) -> View:
        service, to = self.service, request.WhichOneof("to")
        head = service.vault.head(call.tenant, name)
        if to == "position":
            return service.readings.view_at(call.tenant, head, request.position)
        if to == "digest":
            past = service.vault.bookmarks.history(call.tenant, name)
            found = [p.view for p in past if p.view.digest == request.digest]
        else:
            found = [m.view for m in service.vault.marks(call.tenant, name) if m.name == request.bookmark]
        if not found:
            what = "entry of the history" if to == "digest" else f"bookmark {request.bookmark!r}"
            raise errors.NotFound(f"no {what} in session {name!r}", bookmark=request.bookmark)
        if not found[0].manifest:
            return found[0]  # of before anything was read
        return service.vault.found(call.tenant, found[0], (head.parent, head.draft))[0]

    @rpc
    def Plan(self, requests: Iterator[pb.PlanRequest], call: Call) -> pb.PlanReply:
        reply = plan(self.service, call.tenant, requests)
        call.facts.update(tokens=reply.tokens, known=reply.known_tokens, came_from=reply.from_session)
        return reply

    @rpc
    def BookmarkSession(self, request: pb.BookmarkSessionRequest, call: Call) -> pb.Bookmark:
        if not bookmark_name(request.name):
            raise errors.InvalidInput("a bookmark needs a name", field="name")
        return _bookmark(self.service.vault.bookmarks.put(call.tenant, session_id(request.session_id), request.name))

    def _session(self, call: Call, head: Head) -> pb.Session:
        call.facts["session"] = head.session
        service = self.service
        return pb.Session(
            session_id=head.session,
            head=head_message(head),
            segments=head.view.segments,
            saved_bytes=head.view.bytes,
            bookmarks=[_bookmark(mark) for mark in service.vault.marks(call.tenant, head.session)],
            live=service.driver.is_live((call.tenant, head.digest)),
            fingerprint=head.view.fingerprint,
            created_ms=head.created_ms,
        )

    # --- work ---------------------------------------------------------------------------------------------------------

    @rpc
    def Read(self, requests: Iterator[pb.ReadRequest], call: Call) -> Iterator[pb.ReadProgress]:
        service, header = self.service, _header(requests)
        name, bookmark = session_id(header.session_id), bookmark_name(header.bookmark)
        call.facts.update(session=name, segment=header.segment[:100])
        with service.readings.writing(call.tenant, name, header.expected_digest, bookmark) as head:
            ids = self._segment(requests, head, call)
            with service.readings.reading(call.tenant, head, header.segment, ids, call.stop) as work:
                yield from self._read(work, header, ids, bookmark, call)

    def _segment(self, requests: Iterator[pb.ReadRequest], head: Head, call: Call) -> list[int]:
        ids: list[int] = []
        for request in requests:
            ids += encode_part(self.service.tokenizer, request.part)
            check_room(self.service, head.position + len(ids))
        call.stop.check()  # a broken stream looks like an ended one
        if not ids:
            raise errors.InvalidInput("a segment has at least one token")
        call.facts["tokens_in"] = len(ids)
        return ids

    def _read(
        self, work: Work, header: pb.ReadHeader, ids: list[int], bookmark: str, call: Call
    ) -> Iterator[pb.ReadProgress]:
        readings, start = self.service.readings, work.head.position
        first = work.position
        started = told = time.monotonic()
        for position, durable in readings.read_segment(work, header.segment, ids, call.stop):
            now = time.monotonic()
            if position == first or now - told >= _PROGRESS_EVERY_S:
                told = now
                yield pb.ReadProgress(
                    segment_tokens_done=position - start,
                    segment_tokens_total=len(ids),
                    position=position,
                    durable_position=durable,
                    tokens_per_second=(position - first) / max(now - started, 1e-3),
                )
        seconds = time.monotonic() - started
        call.stop.check()
        head = readings.save(work, bookmark)
        speed = (head.position - first) / max(seconds, 1e-3)
        call.facts.update(reused=work.resumed, shared=work.shared, tok_s=round(speed, 1), recomputed=work.recomputed)
        yield pb.ReadProgress(
            segment_tokens_done=len(ids),
            segment_tokens_total=len(ids),
            position=head.position,
            durable_position=head.position,
            tokens_per_second=speed,
            done=True,
            head=head_message(head),
            usage=answers.usage(work, start, len(ids), read_ms=seconds * 1000),
        )

    @rpc
    def Generate(self, request: pb.GenerateRequest, call: Call) -> Iterator[pb.GenerateChunk]:
        yield from answers.generate(self.service, request, call)

    @rpc
    def Score(self, request: pb.ScoreRequest, call: Call) -> pb.ScoreReply:
        return answers.score(self.service, request, call)


def _header(requests: Iterator[pb.ReadRequest]) -> pb.ReadHeader:
    first: Any = next(requests, None)
    if first is None or first.WhichOneof("message") != "header":
        raise errors.InvalidInput("the first message of Read is the header")
    return first.header


def _bookmark(mark: Mark) -> pb.Bookmark:
    head = pb.Head(position=mark.view.position, digest=mark.view.digest)
    return pb.Bookmark(name=mark.name, head=head, created_ms=mark.created_ms)
