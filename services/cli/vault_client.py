"""The engine's `Vault` service as plain calls: one tenant's readings, plain errors (services.errors), no torch."""

from collections.abc import Iterable, Iterator

from services.inference.client import InferenceClient, Stream
from services.inference.pb import inference_pb2 as pb

HOURS = 24 * 3600.0  # a sweep of a large store takes as long as it takes; Ctrl-C ends it


class VaultClient(InferenceClient):
    """`session_id` "" is every session of the tenant, where the call knows that."""

    def verify(self, session_id: str = "") -> Stream[pb.VaultFinding]:
        return Stream(self._vault.Verify(_session(session_id), metadata=self._metadata()))

    def repair(self, session_id: str = "") -> Stream[pb.VaultFinding]:
        return Stream(self._vault.Repair(_session(session_id), metadata=self._metadata()))

    def export(self, session_id: str) -> Stream[pb.VaultChunk]:
        return Stream(self._vault.Export(_session(session_id), metadata=self._metadata()))

    def load(self, session_id: str, chunks: Iterable[bytes]) -> pb.Session:
        """A new session of this name from an exported file's bytes, each chunk below 4 MiB."""
        return self._unary(self._vault.Import, _import_requests(session_id, chunks), HOURS)

    def collect(self) -> pb.VaultCollectReply:
        return self._unary(self._vault.Collect, pb.VaultShowRequest(), HOURS)

    def history(self, session_id: str) -> list[pb.VaultHistoryEntry]:
        return list(self._unary(self._vault.History, _session(session_id)).entries)

    def tier_down(self, session_id: str = "") -> pb.VaultMovedReply:
        return self._unary(self._vault.TierDown, _session(session_id), HOURS)

    def recover(self) -> pb.VaultRecoverReply:
        return self._unary(self._vault.Recover, pb.VaultShowRequest(), HOURS)


def _session(session_id: str) -> pb.VaultSessionRequest:
    return pb.VaultSessionRequest(session_id=session_id)


def _import_requests(session_id: str, chunks: Iterable[bytes]) -> Iterator[pb.VaultImportRequest]:
    yield pb.VaultImportRequest(session_id=session_id)
    for chunk in chunks:
        yield pb.VaultImportRequest(data=chunk)
