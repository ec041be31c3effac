"""Servers a test needs beside a Redis that behaves: one that follows a script, and TLS in front of a real one."""

import contextlib
import datetime
import ipaddress
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Process = subprocess.Popen[bytes]
Starter = Callable[..., tuple[Process, int]]  # options of Redis -> the process, its port


@contextlib.contextmanager
def scripted(*pieces: bytes, keep_open: bool = True) -> Iterator[str]:
    """A server that answers whatever it is sent with these pieces, one after another, then stalls or hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        done = threading.Event()

        def serve() -> None:
            accepted, _ = listening.accept()
            with accepted:
                accepted.recv(1 << 16)
                for piece in pieces:
                    accepted.sendall(piece)
                if keep_open:
                    done.wait(60)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"redis://127.0.0.1:{listening.getsockname()[1]}"
        done.set()
        thread.join()


def certificate(folder: Path) -> Path:
    """Of 127.0.0.1, signed by itself, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(days=1)
    built = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, until)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = built.add_extension(names, critical=False).sign(key, hashes.SHA256())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    path = folder / "certificate.pem"
    path.write_bytes(signed.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return path


@contextlib.contextmanager
def tls_before(port: int, certificate: Path) -> Iterator[int]:
    """A port that speaks TLS and passes one connection on to the other port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            accepted, _ = listening.accept()
            with (
                contextlib.suppress(OSError),
                context.wrap_socket(accepted, server_side=True) as outside,
                socket.create_connection(("127.0.0.1", port)) as inside,
            ):
                back = threading.Thread(target=passed_on, args=(inside, outside))
                back.start()
                passed_on(outside, inside)
                back.join()

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


def passed_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
