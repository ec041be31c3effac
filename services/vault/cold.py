"""The cold tier: objects by key, in a folder or in a bucket."""

import errno
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import structlog
from obstore.exceptions import BaseError

from services.errors import InvalidInput, Unavailable
from services.vault.bucket import Bucket
from services.vault.folder import Folder

log = structlog.get_logger(__name__)
T = TypeVar("T")
Data = bytes | bytearray | memoryview

KEY = re.compile(r"[A-Za-z0-9_.:@-]+(/[A-Za-z0-9_.:@-]+)*")
# of a server's or a transport's error, without secrets
HINT = re.compile(r"<Code>(\w{1,40})</Code>|\bkind: (\w{1,20})")


class ColdUnavailable(Unavailable):
    """The cold tier cannot be read or written now; the detail names the kind of cause, never a secret."""

    code, title = "cold_unavailable", "The cold tier is unavailable"


class Cold:
    """Objects by key. Keys are words of A-Z a-z 0-9 _ . : @ - joined by "/", none of them "." or "..". Thread-safe.

    url: "file:///absolute/path", made if missing, its owner's only; or "s3://bucket/prefix", endpoint and keys from the
    usual AWS_ variables. timeout_s: for a request over the network.

    Raises InvalidInput for a bad url or key, ColdUnavailable for everything else but "not found".
    """

    def __init__(self, url: str, timeout_s: float = 60.0) -> None:
        self._url = url
        with self._reported("be opened"):
            self._objects = _opened(url, timeout_s)

    def put(self, key: str, data: Data | Sequence[Data], replace: bool = False) -> bool:
        """Stores the object whole or not at all, lasting when it returns. False: it was there, and is left as it is.

        replace: writes over what is there, in one step, and returns True: for heads, and for what is damaged.
        """
        pieces = [data] if isinstance(data, Data) else list(data)
        with self._reported("be written"):
            return self._objects.put(_checked(key), [memoryview(piece).cast("B") for piece in pieces], replace)

    def get(self, key: str) -> bytes | None:
        with self._reported("be read"):
            return self._objects.get(_checked(key))

    def get_into(self, key: str, into: memoryview) -> int | None:
        """Length of the object, now in ``into[:length]``; None when missing. Raises resp.ValueTooLong."""
        with self._reported("be read"):
            return self._objects.get_into(_checked(key), into)

    def delete(self, keys: Iterable[str]) -> None:
        """Missing ones are fine."""
        with self._reported("be written"):
            self._objects.delete([_checked(key) for key in keys])

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """(key, bytes) of everything under the prefix, by whole words: "a/b" covers "a/b/c", not "a/bc"; "" is all.

        In no particular order; what is put or deleted meanwhile may be in it or not.
        """
        prefix = prefix.rstrip("/")
        with self._reported("be listed"):
            yield from self._objects.list(prefix and _checked(prefix))

    def exists(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys that are there."""
        with self._reported("be read"):
            return self._objects.exists([_checked(key) for key in keys])

    @contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, BaseError) as error:  # its own text may show a request with its signature
            raise ColdUnavailable(f"the cold tier {self._url} cannot {what}: {_cause(error)}") from None


def asked(cold: Cold | None, ask: Callable[[Cold], T]) -> T | None:
    """What `ask` returns; None when there is no cold tier, or it is away: then the tokens are read again. Also for a
    name that no object can have: it was damaged where it stood.
    """
    if cold is None:
        return None
    try:
        return ask(cold)
    except (ColdUnavailable, InvalidInput) as error:
        log.warning("cold_unavailable", why=error.detail)
        return None


def _opened(url: str, timeout_s: float) -> Folder | Bucket:
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and len(parts.path) > 1:
        return Folder(Path(unquote(parts.path)))
    if parts.scheme == "s3" and re.fullmatch(r"[a-z0-9.-]{3,63}", parts.netloc) and not parts.query:
        return Bucket(parts.netloc, _prefix(parts.path), timeout_s)
    raise InvalidInput(
        "SHIORI_COLD_URL must be file:///absolute/path or s3://bucket/prefix; an endpoint and keys go into"
        " AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )


def _prefix(path: str) -> str:
    path = path.strip("/")
    return path and _checked(path)


def _checked(key: str) -> str:
    if not KEY.fullmatch(key) or {".", ".."} & set(key.split("/")):
        raise InvalidInput(f"{key[:200]!r} is no key for the cold tier: words of A-Z a-z 0-9 _ . : @ - joined by /")
    return key


def _cause(error: Exception) -> str:
    """The class and what is known to be harmless of the rest."""
    name = type(error).__name__
    if isinstance(error, OSError) and error.errno is not None:
        full = ", the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return f"{name} {errno.errorcode.get(error.errno, error.errno)}{full}"
    found = HINT.search(str(error))
    return f"{name} {found[1] or found[2]}" if found else name
