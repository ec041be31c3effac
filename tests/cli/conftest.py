"""A gRPC server that answers as the engine's Vault service might, to see how the command shows it and what it refuses.
What the engine really answers is in test_real.py."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from typer.testing import Result

from services import errors
from services.inference.calls import rpc
from services.inference.pb import inference_pb2 as pb
from services.inference.pb import inference_pb2_grpc
from tests.cli.system import below, start, system, vault  # noqa: F401  (fixtures)
from tests.conftest import plain_logs
from tests.inference.conftest import model_dir  # noqa: F401  (a fixture)

Cli = Callable[..., Result]


def exact(finding: str, block: str, mended: str = "") -> pb.VaultFinding:
    tier, what = finding.split()
    return pb.VaultFinding(
        session_id="book", block=block, kind="page", tier=tier, what=what, mended=mended, checked=3, total=9
    )


@dataclass
class Peer(inference_pb2_grpc.VaultServicer):
    """`report`, `found` and `refuses` are set by the test; `asked` and `received` tell what came."""

    report: pb.VaultReport = field(default_factory=pb.VaultReport)
    found: list[pb.VaultFinding] = field(default_factory=list)
    entries: list[pb.VaultHistoryEntry] = field(default_factory=list)
    archive: list[bytes] = field(default_factory=list)
    refuses: errors.ShioriError | None = None
    refuses_after: int = 0  # chunks
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, tenant, session
    received: bytes = b""

    def _note(self, request: Any, call: Any) -> None:
        self.asked.append((call.method, call.tenant, getattr(request, "session_id", "")))
        if self.refuses and not self.refuses_after:
            raise self.refuses

    @rpc
    def Show(self, request: Any, call: Any) -> pb.VaultReport:
        self._note(request, call)
        return self.report

    @rpc
    def Verify(self, request: Any, call: Any) -> Iterator[pb.VaultFinding]:
        self._note(request, call)
        yield pb.VaultFinding(checked=1, total=9)
        yield from self.found
        yield pb.VaultFinding(checked=9, total=9, done=True)

    Repair = Verify

    @rpc
    def Export(self, request: Any, call: Any) -> Iterator[pb.VaultChunk]:
        self._note(request, call)
        for number, chunk in enumerate(self.archive):
            if self.refuses and number == self.refuses_after:
                raise self.refuses
            yield pb.VaultChunk(data=chunk)

    @rpc
    def Import(self, requests: Any, call: Any) -> pb.Session:
        first = next(requests)
        self._note(first, call)
        self.received = b"".join(request.data for request in requests)
        return pb.Session(session_id=first.session_id, head=pb.Head(position=12_345))

    @rpc
    def Collect(self, request: Any, call: Any) -> pb.VaultCollectReply:
        self._note(request, call)
        return pb.VaultCollectReply(freed_bytes=1_500_000, freed_cold_bytes=2_000)

    @rpc
    def History(self, request: Any, call: Any) -> pb.VaultHistoryReply:
        self._note(request, call)
        return pb.VaultHistoryReply(entries=self.entries)

    @rpc
    def TierDown(self, request: Any, call: Any) -> pb.VaultMovedReply:
        self._note(request, call)
        return pb.VaultMovedReply(sessions=2, bytes=3_000_000_000)

    @rpc
    def Recover(self, request: Any, call: Any) -> pb.VaultRecoverReply:
        self._note(request, call)
        return pb.VaultRecoverReply(sessions=4, skipped=1)


class Sessions(inference_pb2_grpc.InferenceServicer):
    @rpc
    def DescribeSession(self, request: Any, call: Any) -> pb.Session:
        return pb.Session(session_id=request.session_id, saved_bytes=5_000)


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
def address(peer: Peer) -> Iterator[str]:
    plain_logs()  # not onto the standard output of the command under test
    server = grpc.server(ThreadPoolExecutor(4))
    inference_pb2_grpc.add_VaultServicer_to_server(peer, server)
    inference_pb2_grpc.add_InferenceServicer_to_server(Sessions(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.fixture
def run(address: str) -> Cli:
    """`shiori vault …` against the peer."""
    return lambda *words: vault(address, *words)
