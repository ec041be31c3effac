"""Sockets to Redis, from its URL; what goes wrong with them comes as redis-py's errors."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import exceptions
from redis.connection import SSLConnection, UnixDomainSocketConnection, parse_url

ERRORS: dict[str, type[exceptions.RedisError]] = {
    "OOM": exceptions.OutOfMemoryError,
    "WRONGPASS": exceptions.AuthenticationError,
    "NOAUTH": exceptions.AuthenticationError,
    "NOPERM": exceptions.NoPermissionError,
    "LOADING": exceptions.BusyLoadingError,
    "READONLY": exceptions.ReadOnlyError,
    "ERR max number of clients reached": exceptions.ConnectionError,
}

BAD_URL = "the URL of Redis must be redis://…, rediss://… or unix:///path, special characters of the password as %XX"


def options_of(url: str) -> dict[str, Any]:
    """redis-py's reading of the URL: host, port, path, db, username, password, ssl_…. Raises ValueError."""
    try:
        options = parse_url(url)
    except ValueError:
        raise ValueError(BAD_URL) from None  # the cause's text may show a piece of the password
    if options.get("connection_class") is UnixDomainSocketConnection and "path" not in options:
        raise ValueError(BAD_URL)
    return options


def place(options: dict[str, Any]) -> str:
    """For messages; without secrets."""
    return f"Redis at {options.get('path') or '{}:{}'.format(*_address(options))}"


def _address(options: dict[str, Any]) -> tuple[str, int]:
    return options.get("host", "localhost"), int(options.get("port", 6379))


def connect(options: dict[str, Any], timeout_s: float) -> socket.socket:
    if "path" in options:
        return _open_unix(options["path"], timeout_s)
    plain = socket.create_connection(_address(options), timeout_s)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if options.get("connection_class") is not SSLConnection:
        return plain
    try:
        return _tls(options).wrap_socket(plain, server_hostname=_address(options)[0])
    except BaseException:
        plain.close()
        raise


def _open_unix(path: str, timeout_s: float) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX)
    try:
        opened.settimeout(timeout_s)
        opened.connect(path)
    except BaseException:
        opened.close()
        raise
    return opened


def _tls(options: dict[str, Any]) -> ssl.SSLContext:
    """redis-py's options, as they may stand in the URL: ssl_ca_certs, ssl_cert_reqs, ssl_certfile, ssl_keyfile."""
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_cert_reqs") == "none":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate := options.get("ssl_certfile"):
        context.load_cert_chain(certificate, options.get("ssl_keyfile"))
    return context


@contextmanager
def redis_errors(place: str) -> Iterator[None]:
    """The system's errors as redis-py's."""
    try:
        yield
    except TimeoutError:
        raise exceptions.TimeoutError(f"{place} did not answer in time") from None
    except OSError as error:
        raise exceptions.ConnectionError(f"{place}: {error.strerror or error}") from error


def reply_error(line: str) -> exceptions.RedisError:
    """Of an error reply, without its leading "-"."""
    kind = ERRORS.get(line) or ERRORS.get(line.split(" ", 1)[0], exceptions.ResponseError)
    return kind(line)
