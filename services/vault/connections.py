"""Connections to one Redis, lent to threads: for blocks. Everything small goes through redis-py."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager

from redis import exceptions

from services.vault.resp import Connection
from services.vault.sockets import options_of


class Connections:
    """At most ``count`` connections to one Redis, for any number of threads.

    timeout_s: the deadline of each connection (see there), and of waiting for one. Make it after a fork, not before.
    """

    def __init__(self, url: str, count: int, timeout_s: float = 10.0) -> None:
        options_of(url)  # a bad one is told here, not at the first use
        self._url, self._count, self._timeout_s = url, count, timeout_s
        self._closed = False
        self._free: queue.LifoQueue[Connection | None] = queue.LifoQueue()  # the last used on top; None: not open yet
        for _ in range(count):
            self._free.put(None)

    @contextmanager
    def lease(self) -> Iterator[Connection]:
        """A connection of one's own, opened when first needed and again when it broke.

        Raises redis.exceptions.TimeoutError when all are in use for ``timeout_s``, and as Connection does.
        """
        held = self._take()
        try:
            if held is None or not held.usable:
                held = self._renewed(held)
            yield held
        finally:
            if held and self._closed:
                held.close()
            self._free.put(held)

    def close(self) -> None:
        """Closes those that are free now, and each of the others when it comes back."""
        self._closed = True
        for held in list(self._free.queue):
            if held:
                held.close()

    def _take(self) -> Connection | None:
        try:
            return self._free.get(timeout=self._timeout_s)
        except queue.Empty:
            message = f"all {self._count} connections to Redis were in use for {self._timeout_s:g} s"
            raise exceptions.TimeoutError(message) from None

    def _renewed(self, broken: Connection | None) -> Connection:
        if broken:
            broken.close()
        return Connection(self._url, self._timeout_s)
