"""The vault's own client of Redis on the wire: real servers; scripted sockets where a server has to misbehave."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import redis
from redis import exceptions

from services.vault.resp import Connection, ValueTooLong
from tests.vault.servers import Starter, scripted

BLOCK = 2 * 1024 * 1024 - 64


def room(size: int) -> memoryview:
    return memoryview(bytearray(size))


@pytest.fixture
def connection(redis_url: str) -> Iterator[Connection]:
    opened = Connection(redis_url, 10)
    yield opened
    opened.close()


@pytest.mark.parametrize("size", [0, 1, 200, 245, 246, 247, 248, 249, 250, 251, 256, 257, 70_000, BLOCK])
def test_values_come_back_bit_for_bit(connection: Connection, size: int) -> None:
    """The sizes around 250 end just before, in and after what is read along with the length."""
    data = os.urandom(size)
    assert connection.set_many([(b"k", [data])]) == [True]
    into = room(size + 3)
    assert connection.get_into(b"k", into) == size
    assert into[:size] == data and bytes(into[size:]) == b"\0\0\0"
    assert connection.get_into(b"k", into[:size]) == size


def test_a_value_is_its_buffers_one_after_another(connection: Connection, redis_url: str) -> None:
    pieces = [b"head", bytearray(b""), memoryview(b"-middle-")[1:], memoryview(bytes(16)).cast("Q"), b"\r\n$end"]
    connection.set_many([(b"k\r\n", pieces)])
    assert redis.Redis.from_url(redis_url).get(b"k\r\n") == b"headmiddle-" + bytes(16) + b"\r\n$end"


def test_more_buffers_than_the_kernel_takes_at_once(connection: Connection, redis_url: str) -> None:
    connection.set_many([(b"k", [b"%04d" % number for number in range(3000)])])
    assert redis.Redis.from_url(redis_url).get("k") == b"".join(b"%04d" % number for number in range(3000))


def test_missing_is_none(connection: Connection) -> None:
    assert connection.get_into(b"nothing", room(1)) is None
    assert connection.set_many([]) == []


def test_nx_keeps_what_is_there_and_says_so(connection: Connection) -> None:
    assert connection.set_many([(b"a", [b"1"]), (b"b", [b"2"]), (b"a", [b"3"])]) == [True, True, False]
    assert connection.set_many([(b"a", [b"4"])], nx=False) == [True]
    into = room(1)
    assert connection.get_into(b"a", into) == 1 and into == b"4"


def test_many_blocks_in_one_pipeline(connection: Connection) -> None:
    block = os.urandom(BLOCK)
    items = ((b"%d" % number, [block[:1000], memoryview(block)[1000:]]) for number in range(12))
    assert connection.set_many(items) == [True] * 12
    into = room(BLOCK)
    for number in range(12):
        assert connection.get_into(b"%d" % number, into) == BLOCK and into == block


@pytest.mark.parametrize("size", [5, 300, 65_535, 65_536, 65_537, 200_000])
def test_a_value_too_long_leaves_the_connection_in_step(connection: Connection, size: int) -> None:
    connection.set_many([(b"long", [bytes(size)]), (b"k", [b"next"])])
    with pytest.raises(ValueTooLong, match=r"'long' has .* bytes, the buffer for it 4") as raised:
        connection.get_into(b"long", room(4))
    assert (raised.value.length, raised.value.room) == (size, 4)
    into = room(4)
    assert connection.usable and connection.get_into(b"k", into) == 4 and into == b"next"


def test_error_replies_leave_the_connection_in_step(connection: Connection, redis_url: str) -> None:
    redis.Redis.from_url(redis_url).hset("hash", "a", "b")
    with pytest.raises(exceptions.ResponseError, match="WRONGTYPE"):
        connection.get_into(b"hash", room(1))
    assert connection.usable and connection.get_into(b"nothing", room(1)) is None


def test_out_of_memory_is_its_own_error_after_all_replies(start: Starter) -> None:
    _, port = start("--maxmemory", "4mb", "--maxmemory-policy", "noeviction")
    opened = Connection(f"redis://127.0.0.1:{port}/0", 10)
    with pytest.raises(exceptions.OutOfMemoryError, match="OOM command not allowed"):
        opened.set_many((b"%d" % number, [bytes(1 << 20)]) for number in range(8))
    into = room(1 << 20)
    assert opened.usable and opened.get_into(b"0", into) == 1 << 20
    assert opened.get_into(b"7", into) is None


def test_misconf_stays_a_response_error() -> None:
    with scripted(b"-MISCONF Redis is configured to save RDB snapshots\r\n") as url:
        opened = Connection(url, 10)
        with pytest.raises(exceptions.ResponseError, match="MISCONF") as raised:
            opened.set_many([(b"k", [b"v"])])
        assert type(raised.value) is exceptions.ResponseError and opened.usable


def test_loading_and_too_many_clients_are_connection_errors(start: Starter) -> None:
    with scripted(b"-LOADING Redis is loading the dataset in memory\r\n") as url:
        opened = Connection(url, 10)
        with pytest.raises(exceptions.BusyLoadingError):
            opened.get_into(b"k", room(1))
        assert not opened.usable
    _, port = start()
    first = Connection(f"redis://127.0.0.1:{port}", 10)
    redis.Redis(port=port).config_set("maxclients", 1)
    second = Connection(f"redis://127.0.0.1:{port}", 10)
    with pytest.raises(exceptions.ConnectionError):
        second.get_into(b"k", room(1))
    assert first.usable and not second.usable


def test_a_server_that_stops_ends_in_a_timeout_and_closes(start: Starter) -> None:
    process, port = start()
    reader, writer = (Connection(f"redis://127.0.0.1:{port}", 0.2) for _ in range(2))
    os.kill(process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(exceptions.TimeoutError, match="did not answer in time"):
            reader.get_into(b"k", room(1))
        with pytest.raises(exceptions.TimeoutError):  # more than the kernel's buffers take
            writer.set_many([(b"k", [bytes(64 << 20)])])
        assert not reader.usable and not writer.usable
    finally:
        os.kill(process.pid, signal.SIGCONT)


@pytest.mark.parametrize("reply", [b"", b"$1", b"$10\r\nabc", b"$3\r\nabc", b"$3\r\nabc\r"])
def test_half_a_reply_ends_in_an_error_and_closes(reply: bytes) -> None:
    with scripted(reply) as url:
        opened = Connection(url, 0.2)
        with pytest.raises(exceptions.TimeoutError):
            opened.get_into(b"k", room(100))
        assert not opened.usable
    with scripted(reply, keep_open=False) as url:
        opened = Connection(url, 10)
        with pytest.raises(exceptions.ConnectionError):
            opened.get_into(b"k", room(100))
        assert not opened.usable


def test_the_deadline_holds_for_a_server_that_sends_a_little_at_a_time() -> None:
    """Each byte comes in time, all of them never would."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            accepted, _ = listening.accept()
            with accepted, contextlib.suppress(OSError):
                accepted.sendall(b"$1000000\r\n")
                while True:
                    accepted.sendall(b"x")
                    time.sleep(0.02)

        thread = threading.Thread(target=serve)
        thread.start()
        opened = Connection(f"redis://127.0.0.1:{listening.getsockname()[1]}", 0.3)
        with pytest.raises(exceptions.TimeoutError):
            opened.get_into(b"k", room(1_000_000))
        thread.join()


@pytest.mark.parametrize(
    "reply", [b"+OK\r\n", b":1\r\n", b"$-2\r\n", b"$x\r\n", b"$3\r\nabcd\r\n", b"HTTP/1.1 400\r\n", b"x" * 100_000]
)
def test_what_is_no_reply_to_get_closes(reply: bytes) -> None:
    with scripted(reply) as url:
        opened = Connection(url, 10)
        with pytest.raises(exceptions.InvalidResponse):
            opened.get_into(b"k", room(100))
        assert not opened.usable


def test_a_connection_is_not_used_after_the_caller_broke_off(connection: Connection) -> None:
    def items() -> Iterator[tuple[bytes, list[bytes]]]:
        yield b"a", [b"1"]
        raise OSError("the caller's own")

    with pytest.raises(OSError, match="the caller's own"):
        connection.set_many(items())
    assert not connection.usable
    with pytest.raises(exceptions.ConnectionError):
        connection.get_into(b"a", room(1))
