"""The cold tier: objects by key, in a folder or in a bucket."""

from collections.abc import Buffer, Iterable, Iterator, Sequence

from services.errors import Unavailable


class ColdUnavailable(Unavailable):
    """The cold tier cannot be read or written now; the detail names the kind of cause, never a secret."""

    code, title = "cold_unavailable", "The cold tier is unavailable"


class Cold:
    """Objects by key. Keys are segments of A-Z a-z 0-9 _ . : @ - joined by "/". Thread-safe.

    url: "file:///absolute/path", made if missing, readable by its owner only; or "s3://bucket/prefix", endpoint and
    keys from the usual AWS_ variables. timeout_s: for a request over the network.

    Raises InvalidInput for a bad url or key, ColdUnavailable for anything else but "not found".
    """

    def __init__(self, url: str, timeout_s: float = 60.0) -> None: ...
    def put(self, key: str, data: Buffer | Sequence[Buffer], replace: bool = False) -> bool:
        """Stores the object whole or not at all, durably when it returns. False: it was there, and is left alone."""

    def get(self, key: str) -> bytes | None: ...
    def get_into(self, key: str, into: memoryview) -> int | None:
        """Length of the object, now in ``into[:length]``; None when missing. Raises ValueTooLong (see resp)."""

    def delete(self, keys: Iterable[str]) -> None:
        """Missing ones are fine."""

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """(key, bytes) of everything under the prefix, whole segments: "a/b" covers "a/b/c", not "a/bc"; "" is all."""

    def exists(self, keys: Iterable[str]) -> set[str]: ...
