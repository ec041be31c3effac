"""The door to the engine for everybody else: plain calls, plain errors, no torch.

A stream that is closed, dropped or cancelled cancels the call, and the engine stops within one step. Make the client
after a fork (in each Celery worker child), never before: gRPC threads do not survive one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import grpc
import structlog

from services.inference.channel import channel_to, raised
from services.inference.pb import inference_pb2 as pb
from services.inference.pb import inference_pb2_grpc

Part = pb.Part
T = TypeVar("T")

_TEXT_LIMIT = 512 * 1024  # characters of one text part; at most 2 MiB of UTF-8, and a message takes 4 MiB


def text(value: str) -> Part:
    return Part(text=value)


def special(name: str) -> Part:
    return Part(special=name)


def tokens(ids: Iterable[int]) -> Part:
    return Part(tokens=pb.TokenIds(ids=ids))


class Stream(Generic[T]):
    """Messages of one call. `close()` (also from another thread), leaving `with`, or dropping it cancels the call."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raised(error)

    def close(self) -> None:
        self._call.cancel()

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class InferenceClient:
    def __init__(self, address: str, tenant: str = "default", *, timeout: float = 30.0) -> None:
        self._channel = channel_to(address)
        self._stub = inference_pb2_grpc.InferenceStub(self._channel)
        self._vault = inference_pb2_grpc.VaultStub(self._channel)
        self._tenant = tenant
        self._timeout = timeout

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> InferenceClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def describe(self) -> pb.DescribeReply:
        return self._unary(self._stub.Describe, pb.DescribeRequest())

    def count_tokens(self, parts: Iterable[Part]) -> int:
        """Counted a part at a time: a source is larger than one message may be."""
        requests = (pb.CountTokensRequest(parts=[piece]) for piece in _pieces(parts))
        return sum(self._unary(self._stub.CountTokens, request).tokens for request in requests)

    def open_session(self, session_id: str) -> pb.Session:
        return self._unary(self._stub.OpenSession, pb.OpenSessionRequest(session_id=session_id))

    def describe_session(self, session_id: str) -> pb.Session:
        return self._unary(self._stub.DescribeSession, pb.SessionRequest(session_id=session_id))

    def list_sessions(self, limit: int = 100, after: str = "") -> list[pb.Session]:
        reply = self._unary(self._stub.ListSessions, pb.ListSessionsRequest(limit=limit, after=after))
        return list(reply.sessions)

    def delete_session(self, session_id: str, later: bool = False) -> int:
        """The bytes that were freed; `later`: none yet, they wait for the next sweep."""
        request = pb.DeleteSessionRequest(session_id=session_id, later=later)
        return self._unary(self._stub.DeleteSession, request).freed_bytes

    def fork_session(self, session_id: str, new_session_id: str, bookmark: str = "") -> pb.Session:
        request = pb.ForkSessionRequest(session_id=session_id, new_session_id=new_session_id, bookmark=bookmark)
        return self._unary(self._stub.ForkSession, request)

    def rewind_session(
        self, session_id: str, bookmark: str | None = None, *, position: int | None = None, digest: str | None = None
    ) -> pb.Session:
        """To a bookmark, to a position that was read, or to the digest of an entry of the history."""
        request = pb.RewindSessionRequest(session_id=session_id, bookmark=bookmark, position=position, digest=digest)
        return self._unary(self._stub.RewindSession, request)

    def bookmark_session(self, session_id: str, name: str) -> pb.Bookmark:
        return self._unary(self._stub.BookmarkSession, pb.BookmarkSessionRequest(session_id=session_id, name=name))

    def read(
        self,
        session_id: str,
        parts: Iterable[Part],
        *,
        bookmark: str = "",
        segment: str = "",
        expected_digest: str = "",
        timeout: float | None = None,
    ) -> Stream[pb.ReadProgress]:
        header = pb.ReadHeader(
            session_id=session_id, expected_digest=expected_digest, bookmark=bookmark, segment=segment
        )
        return Stream(self._stub.Read(_read_requests(header, parts), timeout=timeout, metadata=self._metadata()))

    def plan(
        self, session_id: str, segments: Iterable[Iterable[Part]], *, timeout: float | None = None
    ) -> pb.PlanReply:
        """What reading the segments into the session (empty or unknown: a new one) would cost."""
        return self._unary(self._stub.Plan, _plan_requests(session_id, segments), timeout or 120.0)

    def vault_report(self, timeout: float | None = None) -> pb.VaultReport:
        """What lies in which tier: it looks at every block's size, so a large store takes a while."""
        return self._unary(self._vault.Show, pb.VaultShowRequest(), timeout)

    def generate(
        self,
        session_id: str,
        prompt: Iterable[Part],
        *,
        keep: bool = False,
        bookmark: str = "",
        forced: Iterable[Part] = (),
        expected_digest: str = "",
        timeout: float | None = 600.0,
        **sampling: Any,
    ) -> Stream[pb.GenerateChunk]:
        """`sampling` takes the fields of pb.Sampling: temperature, top_p, top_k, seed, max_tokens, stop, …"""
        request = pb.GenerateRequest(
            session_id=session_id,
            expected_digest=expected_digest,
            prompt=_pieces(prompt),
            sampling=pb.Sampling(**sampling),
            keep=keep,
            bookmark=bookmark,
            forced=forced,
        )
        return Stream(self._stub.Generate(request, timeout=timeout, metadata=self._metadata()))

    def score(
        self,
        session_id: str,
        prompt: Iterable[Part],
        continuation: Iterable[Part],
        *,
        timeout: float | None = None,
    ) -> pb.ScoreReply:
        request = pb.ScoreRequest(session_id=session_id, prompt=_pieces(prompt), continuation=_pieces(continuation))
        return self._unary(self._stub.Score, request, timeout or max(self._timeout, 120.0))

    def _unary(self, method: Callable[..., Any], request: Any, timeout: float | None = None) -> Any:
        try:
            return method(request, timeout=timeout or self._timeout, metadata=self._metadata())
        except grpc.RpcError as error:
            raised(error)

    def _metadata(self) -> list[tuple[str, str]]:
        metadata = [("x-shiori-tenant", self._tenant)]
        request_id = structlog.contextvars.get_contextvars().get("request_id")
        return [*metadata, ("x-request-id", str(request_id))] if request_id else metadata


def _read_requests(header: pb.ReadHeader, parts: Iterable[Part]) -> Iterator[pb.ReadRequest]:
    yield pb.ReadRequest(header=header)
    for piece in _pieces(parts):
        yield pb.ReadRequest(part=piece)


def _plan_requests(session_id: str, segments: Iterable[Iterable[Part]]) -> Iterator[pb.PlanRequest]:
    yield pb.PlanRequest(session_id=session_id)
    for parts in segments:
        for piece in _pieces(parts):
            yield pb.PlanRequest(part=piece)
        yield pb.PlanRequest(segment_end=True)


def _pieces(parts: Iterable[Part]) -> Iterator[Part]:
    """Cuts texts that no message could carry, always at the same places: where a text is cut decides its tokens."""
    for part in parts:
        value = part.text
        while len(value) > _TEXT_LIMIT:
            cut = value.rfind("\n", 0, _TEXT_LIMIT) + 1 or _TEXT_LIMIT
            yield text(value[:cut])
            value = value[cut:]
        yield text(value) if part.WhichOneof("kind") == "text" else part
