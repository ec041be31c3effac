"""A small RESP2 client that receives values into buffers which are there already, and sends values from where they lie.

Beside redis-py, which stays the client for everything small: it makes new bytes of every reply, which costs most of
what the wire could carry. Only GET and SET are spoken here.
"""

import re
import select
import ssl
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from redis import exceptions

from services.vault.sockets import connect, options_of, place, redis_errors, reply_error

Data = bytes | bytearray | memoryview

READ_BYTES = 256  # asked for with a reply line; what it takes of the value behind is copied once more
LINE_BYTES = 1 << 16  # no reply line is longer
DRAIN_BYTES = 1 << 16  # thrown away at a time, of a value too long
VIEWS_A_CALL = 512  # the kernel takes 1024 (IOV_MAX)


class ValueTooLong(ValueError):
    """The stored value does not fit the buffer it was asked into."""

    def __init__(self, key: bytes | str, length: int, room: int) -> None:
        super().__init__(f"{key!r} has {length:,} bytes, the buffer for it {room:,}")
        self.length, self.room = length, room


class Connection:
    """One open connection to Redis, for one thread at a time.

    url: redis://[user:password@]host:port/db, rediss://… or unix:///path?db=0, as redis-py reads them.
    timeout_s: a deadline for connecting, for logging in, for each GET, and for each item of a set_many.

    Raises redis.exceptions' classes. ResponseError and its kin (OutOfMemoryError …) leave the connection usable; after
    any other (TimeoutError, ConnectionError, AuthenticationError, BusyLoadingError …) it is closed for good.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._options, self._timeout_s = options_of(url), timeout_s
        self._place = place(self._options)
        self._ahead = b""  # received, not yet looked at
        with redis_errors(self._place):
            self._socket = connect(self._options, timeout_s)
        self._restart()
        try:
            self._log_in()
        except BaseException:
            self.close()
            raise

    def get_into(self, key: bytes, into: memoryview) -> int | None:
        """Length of the value now in ``into[:length]``; None when there is no such key.

        into: writable, of bytes; undefined after an error. Raises ValueTooLong when the value does not fit.
        """
        with self._call():
            self._restart()
            self._send([memoryview(_words(b"GET", key))])
            length = self._length()
            if length > len(into):
                self._drain(length)
                raise ValueTooLong(key, length, len(into))
            if length >= 0:
                self._value(into[:length])
        return length if length >= 0 else None

    def set_many(self, items: Iterable[tuple[bytes, Sequence[Data]]], nx: bool = True) -> list[bool]:
        """Stores each value (its buffers one after another) and says which were stored; False: ``nx`` and it was there.

        Items are drawn one by one and sent at once; replies are read at the end. The first error reply is raised after
        all have been read: other items may be stored then.
        """
        sent = 0
        with self._call():
            for key, buffers in items:
                self._restart()
                self._send(_set(key, buffers, nx))
                sent += 1
            self._restart()
            replies = [self._stored() for _ in range(sent)]
        for reply in replies:
            if isinstance(reply, exceptions.ResponseError):
                raise reply
        return [reply is True for reply in replies]

    @property
    def usable(self) -> bool:
        """Open, and nothing has come in unasked: the farewell of a server that went away would have."""
        if self._socket.fileno() < 0 or self._ahead:
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        self._socket.close()

    def _log_in(self) -> None:
        user, password = self._options.get("username"), self._options.get("password")
        if user or password:
            self._authenticate([user] if user else [], password or "")
        if db := int(self._options.get("db", 0)):
            self._send([memoryview(_words(b"SELECT", b"%d" % db))])
            self._reply()

    def _authenticate(self, user: list[str], password: str) -> None:
        self._send([memoryview(_words(b"AUTH", *(word.encode() for word in [*user, password])))])
        try:
            self._reply()
        except (exceptions.ResponseError, exceptions.AuthenticationError) as error:
            code = str(error).split(" ", 1)[0]  # no more of it: who does not know AUTH answers with what it was given
            raise exceptions.AuthenticationError(f"{self._place} did not take user and password ({code})") from None

    @contextmanager
    def _call(self) -> Iterator[None]:
        """After anything but an error reply or a drained value, nobody knows what comes next on the wire: closes."""
        try:
            yield
        except (exceptions.ResponseError, ValueTooLong):
            raise
        except BaseException:
            self.close()
            raise

    def _restart(self) -> None:
        self._deadline = time.monotonic() + self._timeout_s

    def _await_no_longer(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def _send(self, views: list[memoryview]) -> None:
        with redis_errors(self._place):
            while views:
                self._await_no_longer()
                if isinstance(self._socket, ssl.SSLSocket):
                    sent = self._socket.send(views[0])
                else:
                    sent = self._socket.sendmsg(views[:VIEWS_A_CALL])
                views = _after(views, sent)

    def _line(self) -> bytes:
        while (end := self._ahead.find(b"\r\n")) < 0:
            if len(self._ahead) > LINE_BYTES:
                raise exceptions.InvalidResponse(f"a reply line of {self._place} does not end")
            with redis_errors(self._place):
                self._await_no_longer()
                if not (got := self._socket.recv(READ_BYTES)):
                    _gone(self._place)
                self._ahead += got
        line, self._ahead = self._ahead[:end], self._ahead[end + 2 :]
        return line

    def _reply(self) -> bytes:
        """The next reply line. Raises what an error line says."""
        line = self._line()
        if line.startswith(b"-"):
            raise reply_error(line[1:].decode(errors="replace"))
        return line

    def _length(self) -> int:
        """Of the value that follows; -1: no such key."""
        line = self._reply()
        if not re.fullmatch(rb"\$(-1|\d{1,18})", line):
            raise exceptions.InvalidResponse(f"{self._place} did not answer GET with a value")
        return int(line[1:])

    def _stored(self) -> bool | exceptions.ResponseError:
        """Of one SET: OK, or the nil of NX, or the error."""
        try:
            return self._reply() == b"+OK"
        except exceptions.ResponseError as error:
            return error

    def _value(self, into: memoryview) -> None:
        """Fills ``into`` and takes the line end behind it."""
        self._fill(into)
        if self._line():
            raise exceptions.InvalidResponse(f"a value of {self._place} does not end where it should")

    def _fill(self, into: memoryview) -> None:
        early = self._ahead[: len(into)]
        self._ahead = self._ahead[len(early) :]
        into[: len(early)] = early
        filled = len(early)
        with redis_errors(self._place):
            while filled < len(into):
                self._await_no_longer()
                filled += self._socket.recv_into(into[filled:]) or _gone(self._place)

    def _drain(self, length: int) -> None:
        scrap = memoryview(bytearray(min(length, DRAIN_BYTES)))
        while length > len(scrap):
            self._fill(scrap)
            length -= len(scrap)
        self._value(scrap[:length])


def _gone(place: str) -> NoReturn:
    raise exceptions.ConnectionError(f"{place} closed the connection")


def _words(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def _set(key: bytes, buffers: Sequence[Data], nx: bool) -> list[memoryview]:
    views = [view for buffer in buffers if len(view := memoryview(buffer).cast("B"))]
    head = b"*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (3 + nx, len(key), key, sum(map(len, views)))
    return [memoryview(head), *views, memoryview(b"\r\n$2\r\nNX\r\n" if nx else b"\r\n")]


def _after(views: list[memoryview], sent: int) -> list[memoryview]:
    """What is left of them when so many bytes are gone."""
    for index, view in enumerate(views):
        if sent < len(view):
            return [view[sent:], *views[index + 1 :]]
        sent -= len(view)
    return []
