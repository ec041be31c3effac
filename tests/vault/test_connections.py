"""Where the URL leads, who may in, and how threads share connections."""

import os
import signal
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from redis import exceptions

from services.vault.connections import Connections
from services.vault.resp import Connection
from tests.conftest import free_port
from tests.vault.servers import Starter, certificate, tls_before

PASSWORD = "p@ss/wörd:%"
QUOTED = "p%40ss%2Fw%C3%B6rd%3A%25"


def room(size: int) -> memoryview:
    return memoryview(bytearray(size))


def test_the_database_and_the_unix_socket_of_the_url(start: Starter, tmp_path: Path) -> None:
    _, port = start()
    by_path = Connection(f"unix://{tmp_path}/socket?db=3", 10)
    by_path.set_many([(b"k", [b"three"])])
    assert Connection(f"redis://127.0.0.1:{port}/3", 10).get_into(b"k", room(5)) == 5
    assert Connection(f"redis://127.0.0.1:{port}?db=3", 10).get_into(b"k", room(5)) == 5
    assert Connection(f"redis://127.0.0.1:{port}/0", 10).get_into(b"k", room(5)) is None
    with pytest.raises(exceptions.ResponseError, match="out of range"):
        Connection(f"redis://127.0.0.1:{port}/99", 10)


def test_user_and_password_of_the_url(start: Starter, tmp_path: Path) -> None:
    _, port = start()
    admin = redis.Redis(port=port)
    admin.acl_setuser("shiori", enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], commands=["+get", "+set"])
    admin.config_set("requirepass", PASSWORD)
    for user in ("", "default", "shiori"):
        assert Connection(f"redis://{user}:{QUOTED}@127.0.0.1:{port}/0", 10).get_into(b"k", room(1)) is None
    assert Connection(f"unix://:{QUOTED}@{tmp_path}/socket", 10).get_into(b"k", room(1)) is None
    with pytest.raises(exceptions.AuthenticationError, match="NOAUTH"):
        Connection(f"redis://127.0.0.1:{port}/0", 10).get_into(b"k", room(1))
    with pytest.raises(exceptions.NoPermissionError):
        Connection(f"redis://shiori:{QUOTED}@127.0.0.1:{port}/1", 10)


def test_a_refused_password_is_told_without_it(start: Starter) -> None:
    _, port = start("--requirepass", PASSWORD, "--rename-command", "AUTH", "LOGIN")  # answers with the arguments
    with pytest.raises(exceptions.AuthenticationError, match=r"did not take user and password \(ERR\)") as raised:
        Connection(f"redis://:geheim@127.0.0.1:{port}", 10)
    assert raised.value.__suppress_context__ and "geheim" not in str(raised.value)
    _, port = start("--requirepass", PASSWORD)
    with pytest.raises(exceptions.AuthenticationError, match=r"\(WRONGPASS\)"):
        Connection(f"redis://:geheim@127.0.0.1:{port}", 10)


@pytest.mark.parametrize("url", ["", "http://a", "redis://:geheim/x@host", "redis://h:99999", "unix://", "geheim"])
def test_bad_urls_are_refused_without_repeating_them(url: str) -> None:
    for make in (lambda: Connection(url, 1), lambda: Connections(url, 1)):
        with pytest.raises(ValueError, match="the URL of Redis must be") as raised:
            make()
        assert "geheim" not in "".join(traceback.format_exception_only(raised.value))
        assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_no_server_is_a_connection_error_that_names_the_place(tmp_path: Path) -> None:
    port = free_port()
    with pytest.raises(exceptions.ConnectionError, match=f"Redis at 127.0.0.1:{port}: Connection refused"):
        Connection(f"redis://:geheim@127.0.0.1:{port}/0", 1)
    with pytest.raises(exceptions.ConnectionError, match=f"Redis at {tmp_path}/no: No such file"):
        Connection(f"unix://{tmp_path}/no", 1)


def test_leases_are_shared_and_kept_open(redis_url: str) -> None:
    connections = Connections(redis_url, 2)
    with connections.lease() as first:
        first.set_many([(b"k", [b"v"])])
    with connections.lease() as again, connections.lease() as second:
        assert again is first and second is not first
    connections.close()
    assert not first.usable and not second.usable


def test_when_all_are_in_use_waiting_ends_in_an_error(redis_url: str) -> None:
    connections = Connections(redis_url, 1, timeout_s=0.05)
    with (
        connections.lease(),
        pytest.raises(exceptions.TimeoutError, match="all 1 connections to Redis were in use"),
        connections.lease(),
    ):
        pass
    with connections.lease() as freed:
        assert freed.get_into(b"k", room(1)) is None


def test_a_broken_connection_is_made_again(start: Starter) -> None:
    process, port = start()
    connections = Connections(f"redis://127.0.0.1:{port}", 1)
    with connections.lease() as first:
        assert first.get_into(b"k", room(1)) is None
    redis.Redis(port=port).client_kill_filter(_type="normal", skipme=True)
    with connections.lease() as second:
        assert second.get_into(b"k", room(1)) is None
    assert second is not first
    with pytest.raises(exceptions.ConnectionError), connections.lease() as third:
        redis.Redis(port=port).client_kill_filter(_type="normal", skipme=True)
        third.get_into(b"k", room(1))
    process.kill()
    process.wait()
    for _ in range(3):  # a failure to connect costs no place
        with pytest.raises(exceptions.ConnectionError, match="refused"), connections.lease():
            pass


def test_many_threads_over_few_connections(redis_url: str) -> None:
    connections, watch = Connections(redis_url, 3), redis.Redis.from_url(redis_url)
    before = watch.info("clients")["connected_clients"]

    def work(number: int) -> bool:
        data, into = os.urandom(30_000 + number), room(40_000)
        with connections.lease() as leased:
            leased.set_many([(b"%d" % number, [data])])
        with connections.lease() as leased:
            return leased.get_into(b"%d" % number, into) == len(data) and into[: len(data)] == data

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(200)))
    assert watch.info("clients")["connected_clients"] <= before + 3
    connections.close()


def test_tls_carries_blocks_both_ways_and_the_certificate_is_checked(start: Starter, tmp_path: Path) -> None:
    _, port = start()
    pem, block, into = certificate(tmp_path), os.urandom(2_000_000), room(2_000_000)
    with tls_before(port, pem) as outside:
        opened = Connection(f"rediss://127.0.0.1:{outside}/1?ssl_ca_certs={pem}", 10)
        assert opened.set_many([(b"k", [b"", block[:7], block[7:]]), (b"k", [b""])]) == [True, False]
        assert opened.get_into(b"k", into) == len(block) and into == block
        assert opened.get_into(b"nothing", into) is None and opened.usable
        opened.close()
    refused = pytest.raises(exceptions.ConnectionError, match="CERTIFICATE_VERIFY_FAILED")
    with tls_before(port, pem) as outside, refused:
        Connection(f"rediss://127.0.0.1:{outside}", 10)
    with tls_before(port, pem) as outside:
        Connection(f"rediss://127.0.0.1:{outside}?ssl_cert_reqs=none", 10).close()


def test_a_tls_server_that_stalls_ends_in_a_timeout(start: Starter, tmp_path: Path) -> None:
    process, port = start()
    pem = certificate(tmp_path)
    with tls_before(port, pem) as outside:
        opened = Connection(f"rediss://127.0.0.1:{outside}?ssl_ca_certs={pem}", 0.3)
        process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(exceptions.TimeoutError):
                opened.get_into(b"k", room(1))
            assert not opened.usable
        finally:
            process.send_signal(signal.SIGCONT)
