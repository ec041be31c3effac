"""The RPCs. Each one translates, and hands on to readings (state) and answers (decoding)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from engine import Progress
from services import errors
from services.inference import answers
from services.inference.answers import check_room, head_message
from services.inference.calls import Call, bookmark_name, rpc, session_id
from services.inference.heads import Head, Mark
from services.inference.pb import inference_pb2 as pb
from services.inference.pb import inference_pb2_grpc
from services.inference.readings import Work
from services.inference.service import Service
from services.inference.text import Detokenizer, encode_part, encode_parts

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
        return self._session(call, service.vault.heads.open(call.tenant, name, service.fingerprint))

    @rpc
    def DescribeSession(self, request: pb.SessionRequest, call: Call) -> pb.Session:
        return self._session(call, self.service.vault.heads.get(call.tenant, session_id(request.session_id)))

    @rpc
    def ListSessions(self, request: pb.ListSessionsRequest, call: Call) -> pb.ListSessionsReply:
        heads = self.service.vault.heads
        found = []
        for name in heads.sessions(call.tenant, min(request.limit or 100, 1000), request.after):
            try:
                found.append(self._session(call, heads.get(call.tenant, name)))
            except errors.NotFound:
                continue  # deleted while we looked
        return pb.ListSessionsReply(sessions=found)

    @rpc
    def DeleteSession(self, request: pb.SessionRequest, call: Call) -> pb.DeleteSessionReply:
        """Wins over a writer: its commit finds the head gone."""
        service, name = self.service, session_id(request.session_id)
        head = service.vault.heads.get(call.tenant, name)
        freed = service.vault.delete(call.tenant, name)
        service.driver.forget(call.tenant, {head.manifest})
        return pb.DeleteSessionReply(freed_bytes=freed)

    @rpc
    def ForkSession(self, request: pb.ForkSessionRequest, call: Call) -> pb.Session:
        name, new = session_id(request.session_id), session_id(request.new_session_id)
        return self._session(call, self.service.vault.heads.fork(call.tenant, name, new, request.bookmark))

    @rpc
    def RewindSession(self, request: pb.RewindSessionRequest, call: Call) -> pb.Session:
        service, name = self.service, session_id(request.session_id)
        with service.readings.writer(call.tenant, name):
            return self._session(call, service.vault.heads.rewind(call.tenant, name, request.bookmark))

    @rpc
    def BookmarkSession(self, request: pb.BookmarkSessionRequest, call: Call) -> pb.Bookmark:
        if not bookmark_name(request.name):
            raise errors.InvalidInput("a bookmark needs a name", field="name")
        return _bookmark(self.service.vault.heads.mark(call.tenant, session_id(request.session_id), request.name))

    def _session(self, call: Call, head: Head) -> pb.Session:
        call.facts["session"] = head.session
        service = self.service
        return pb.Session(
            session_id=head.session,
            head=head_message(head),
            segments=head.segments,
            saved_bytes=head.bytes,
            bookmarks=[_bookmark(mark) for mark in service.vault.heads.marks(call.tenant, head.session)],
            live=service.driver.is_live((call.tenant, head.manifest)),
            fingerprint=head.fingerprint,
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
            with service.readings.work(call.tenant, head, call.stop) as work:
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
        readings, start = self.service.readings, work.position
        started = told = time.monotonic()
        yield pb.ReadProgress(segment_tokens_total=len(ids), position=start, durable_position=start)
        for event in readings.read(work, header.segment, ids, call.stop):
            now = time.monotonic()
            if isinstance(event, Progress) and now - told >= _PROGRESS_EVERY_S:
                told, rate = now, event.done / (now - started)
                yield pb.ReadProgress(
                    segment_tokens_done=event.done,
                    segment_tokens_total=len(ids),
                    position=start + event.done,
                    durable_position=start,
                    tokens_per_second=rate,
                )
        seconds = time.monotonic() - started
        call.stop.check()
        head = readings.save(work, bookmark)
        call.facts.update(reused=work.resumed, tok_s=round(len(ids) / seconds, 1), recomputed=work.recomputed)
        yield pb.ReadProgress(
            segment_tokens_done=len(ids),
            segment_tokens_total=len(ids),
            position=head.position,
            durable_position=head.position,
            tokens_per_second=len(ids) / seconds,
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
    return pb.Bookmark(name=mark.name, head=head_message(mark.head), created_ms=mark.created_ms)
