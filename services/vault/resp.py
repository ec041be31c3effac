"""A small RESP2 client that receives values into buffers which are there already, and sends values from where they lie.

Beside redis-py, which stays the client for everything small: it makes new bytes of every reply, which costs most of
what the wire could carry. Only GET and SET are spoken here.
"""

import queue
import select
import socket
import ssl
import time
from collections.abc import Buffer, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from redis import exceptions
from redis.connection import SSLConnection, parse_url

DRAIN_BYTES = 1 << 16  # what is thrown away of a value too long, at a time
LINE_BYTES = 1 << 10  # the longest reply line; Redis's own errors stay far below
VIEWS_A_CALL = 512  # the kernel takes 1024 (IOV_MAX)


class ValueTooLong(ValueError):
    """The stored value does not fit the buffer it was asked into; the buffer's content is undefined."""

    def __init__(self, key: bytes | str, length: int, room: int) -> None:
        super().__init__(f"{key!r} has {length:,} bytes, the buffer for it {room:,}")
        self.length, self.room = length, room


class Connection:
    """One open connection to Redis, for one thread at a time.

    url: redis://[user:password@]host:port/db, rediss://… or unix:///path?db=0, as redis-py reads them.
    timeout_s: a deadline for connecting, for each GET, and for each item of a set_many.

    Raises redis.exceptions' classes: TimeoutError, ConnectionError, AuthenticationError, BusyLoadingError after which
    the connection is closed for good; OutOfMemoryError and other ResponseErrors, which leave it usable.
    """

    def __init__(self, url: str, timeout_s: float) -> None: ...

    def get_into(self, key: bytes, into: memoryview) -> int | None:
        """Length of the value now in ``into[:length]``; None when there is no such key.

        Raises ValueTooLong, with the connection in step, when it does not fit.
        """

    def set_many(self, items: Iterable[tuple[bytes, Sequence[Buffer]]], nx: bool = True) -> list[bool]:
        """Stores each value (its buffers one after another) and says which were stored; False: ``nx`` and it was there.

        Items are drawn one by one and sent at once; replies are read at the end. The first error reply is raised
        after all have been read: other items may be stored then.
        """

    def close(self) -> None: ...


class Connections:
    """At most ``count`` connections to one Redis, for any number of threads."""

    def __init__(self, url: str, count: int, timeout_s: float = 10.0) -> None: ...

    @contextmanager
    def lease(self) -> Iterator[Connection]:
        """A connection of one's own, opened when first needed and again when it broke.

        Raises redis.exceptions.TimeoutError when all are in use for ``timeout_s``.
        """

    def close(self) -> None: ...
