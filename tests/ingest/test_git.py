"""Cloning: a real https server answered by git's own backend, and every refusal."""

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from services.ingest.git import clone_repository, is_public
from services.ingest.repository import parse_repository
from services.ingest.types import Checkout, IngestError, Limits


class Backend(BaseHTTPRequestHandler):
    """`git http-backend`, as a web server would run it."""

    root = ""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "/demo.git" + self.path.removeprefix("/moved"))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        environment = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": self.root, "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
            "QUERY_STRING": query, "REQUEST_METHOD": self.command, "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "REMOTE_ADDR": "127.0.0.1",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }  # fmt: skip
        reply = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True).stdout
        head, _, content = reply.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Forge:
    url: str
    ca: Path
    commits: dict[str, str]
    root: Path

    def clone(
        self, into: Path, revision: str | None = None, path: str = "demo.git", limits: Limits | None = None
    ) -> Checkout:
        url = f"{self.url}/{path}"
        return clone_repository(url, revision, into, limits or Limits(), allow_hosts=["localhost"], ca_file=self.ca)


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    root = tmp_path_factory.mktemp("forge")
    commits = make_repository(root)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", root / "key.pem", "-out", root / "cert.pem", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)  # fmt: skip
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Backend,), {"root": str(root)}))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(root / "cert.pem", root / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Forge(f"https://localhost:{server.server_port}", root / "cert.pem", commits, root)
    server.shutdown()


def make_repository(root: Path) -> dict[str, str]:
    work = root / "work"
    work.mkdir()

    def git(*arguments: str) -> str:
        options = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
        return subprocess.run(
            ["git", *options, *arguments], cwd=work, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    (work / "a.py").write_text("def one():\n    return 1\n")
    (work / "link").symlink_to("/etc/passwd")
    (work / ".gitmodules").write_text('[submodule "x"]\n\tpath = x\n\turl = file:///etc\n')
    (work / ".gitattributes").write_text("*.py filter=evil\n")
    git("add", ".")
    git("commit", "-qm", "one")
    first = git("rev-parse", "HEAD")
    git("tag", "v1")
    (work / "a.py").write_text("def two():\n    return 2\n")
    (work / "big.txt").write_bytes(os.urandom(3 << 20))
    git("commit", "-qam", "two")
    git("add", "big.txt")
    git("commit", "-qm", "big")
    last = git("rev-parse", "HEAD")
    git("branch", "feature/x", first)
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(root / "demo.git")], check=True)
    subprocess.run(["git", "-C", str(root / "demo.git"), "config", "uploadpack.allowAnySHA1InWant", "true"], check=True)
    return {"first": first, "last": last}


def test_clone_pins_the_commit(forge: Forge, tmp_path: Path) -> None:
    checkout = forge.clone(tmp_path / "c")
    assert checkout.revision == forge.commits["last"]
    parsed = parse_repository(Path(checkout.path), "demo.git")
    assert parsed.revision == forge.commits["last"] and parsed.title == "demo"
    assert [s.name for s in parsed.symbols] == ["two"]


def test_a_clone_knows_how_often_each_file_changed(forge: Forge, tmp_path: Path) -> None:
    checkout = forge.clone(tmp_path / "c")
    counts = dict(checkout.changes)
    assert (counts["a.py"], counts["big.txt"]) == (2, 1)
    assert forge.clone(tmp_path / "d", "v1").changes == tuple((name, 1) for name in sorted(counts) if name != "big.txt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "d"]


@pytest.mark.parametrize("revision", ["v1", "feature/x", "sha"])
def test_clone_of_a_tag_branch_or_commit(forge: Forge, tmp_path: Path, revision: str) -> None:
    checkout = forge.clone(tmp_path / "c", forge.commits["first"] if revision == "sha" else revision)
    assert checkout.revision == forge.commits["first"]
    assert (tmp_path / "c/a.py").read_text().startswith("def one")
    assert not os.path.lexists(tmp_path / "c/link"), "links do not come to disk"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c"]


@pytest.mark.parametrize(
    ("path", "revision", "limits", "code"),
    [
        ("demo.git", "nowhere", Limits(), "unknown_revision"),
        ("none.git", None, Limits(), "not_found"),
        ("moved", None, Limits(), "moved"),
        ("demo.git", None, Limits(clone_seconds=0), "timeout"),
        ("demo.git", None, Limits(clone_bytes=1 << 10), "too_large"),
    ],
)
def test_clone_that_fails_says_why(
    forge: Forge, tmp_path: Path, path: str, revision: str | None, limits: Limits, code: str
) -> None:
    with pytest.raises(IngestError) as caught:
        forge.clone(tmp_path / "c", revision, path, limits)
    assert caught.value.code == code and len(caught.value.message) > 30


def test_an_unknown_certificate_is_refused(forge: Forge, tmp_path: Path) -> None:
    with pytest.raises(IngestError) as caught:
        clone_repository(f"{forge.url}/demo.git", None, tmp_path / "c", allow_hosts=["localhost"])
    assert caught.value.code == "tls"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://github.com/a/b", "bad_url"),
        ("file:///etc", "bad_url"),
        ("ssh://git@github.com/a/b", "bad_url"),
        ("git@github.com:a/b.git", "bad_url"),
        ("git://github.com/a/b", "bad_url"),
        ("ext::sh -c id", "bad_url"),
        ("--upload-pack=id", "bad_url"),
        ("https://user:pw@github.com/a/b", "bad_url"),
        ("https://token@github.com/a/b", "bad_url"),
        ("https://github.com", "bad_url"),
        ("https://github.com/a/b?x=1", "bad_url"),
        ("https://github.com/a b", "bad_url"),
        ("https://github.com/a\nb", "bad_url"),
        ("https://github.com:22/a/b", "bad_url"),
        ("https://github.com:99999/a/b", "bad_url"),
        ("https://-oProxy/a/b", "bad_url"),
        ("https://[::1]/a/b", "bad_url"),
        ("https://127.0.0.1/a/b", "private_host"),
        ("https://10.0.0.7/a/b", "private_host"),
        ("https://169.254.169.254/latest/meta-data", "private_host"),
        ("https://localhost/a/b", "private_host"),
        ("https://no-such-host.invalid/a/b", "unknown_host"),
    ],
)
def test_addresses_refused(tmp_path: Path, url: str, code: str) -> None:
    with pytest.raises(IngestError) as caught:
        clone_repository(url, None, tmp_path / "c")
    assert caught.value.code == code
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    "revision", ["--upload-pack=id", "a..b", "a b", "", "x" * 300, "a:b", "a.lock", "+refs/heads/x"]
)
def test_revisions_refused(tmp_path: Path, revision: str) -> None:
    with pytest.raises(IngestError) as caught:
        clone_repository("https://github.com/a/b", revision, tmp_path / "c")
    assert caught.value.code == "bad_revision"


def test_a_name_with_one_private_address_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 443)) for a in ("93.184.216.34", "192.168.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: answers)
    with pytest.raises(IngestError, match="private_host"):
        clone_repository("https://example.com/a/b", None, tmp_path / "c")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "::1",
        "::ffff:10.0.0.1",
        "fe80::1%eth0",
        "fc00::1",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "2002:7f00:1::",
    ],
)
def test_private_addresses(address: str) -> None:
    assert not is_public(address)


def test_public_addresses() -> None:
    assert is_public("140.82.121.3") and is_public("2606:50c0:8000::153")
