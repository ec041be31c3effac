"""`clone_repository`: one commit of a public https repository, fetched by git with everything that runs code off."""

import ipaddress
import os
import re
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from services.ingest.types import LIMITS, Checkout, IngestError, Limits

REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}$")
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$")
OFF = (  # no hooks, no other protocol, no redirect to elsewhere, no passwords, no links on disk, no submodules
    "core.hooksPath=/dev/null", "protocol.allow=never", "protocol.https.allow=always", "http.followRedirects=false",
    "credential.helper=", "core.symlinks=false", "core.fsmonitor=false", "submodule.recurse=false",
    "fetch.recurseSubmodules=false", "gc.auto=0", "maintenance.auto=false", "core.protectNTFS=true",
    "core.autocrlf=false", "init.defaultBranch=main", "advice.detachedHead=false",
)  # fmt: skip
POLL_SECONDS = 0.1
HISTORY = 200  # commits looked at to tell which files change often
HISTORY_SECONDS = 30.0


@dataclass
class Clone:
    """A clone under way: where it goes and what it may still cost."""

    url: str
    into: Path
    options: list[str]
    limits: Limits
    deadline: float


def clone_repository(
    url: str,
    revision: str | None,
    into: Path,
    limits: Limits = LIMITS,
    *,
    allow_hosts: Collection[str] = (),
    ca_file: Path | None = None,
) -> Checkout:
    """`allow_hosts` may stand on private addresses and other ports: your own forge, or a test's server."""
    host, port = check_url(url, allow_hosts)
    check_revision(revision)
    addresses = resolve(host, port, host in allow_hosts)
    options = [*OFF, *(f"http.curloptResolve={host}:{port}:{bracketed(a)}" for a in addresses[:1])]
    options += [f"http.sslCAInfo={Path(ca_file).absolute()}"] if ca_file else []
    into = Path(into).absolute()
    into.mkdir(parents=True, exist_ok=True)
    clone = Clone(url, into, options, limits, time.monotonic() + limits.clone_seconds)
    commit = fetch(clone, revision)
    return Checkout(str(into), url, commit, changes(clone, commit))


def check_url(url: str, allow_hosts: Collection[str]) -> tuple[str, int]:
    """(host, port) of an address that we are willing to ask."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 443
    except ValueError:
        raise refused("bad_url", "is not a web address") from None
    if parts.scheme != "https":
        raise refused("bad_url", "does not begin with https://; no other way of fetching is allowed")
    if parts.username is not None or parts.password is not None:
        raise refused("bad_url", "holds a user name or password; only public repositories can be read")
    if parts.query or parts.fragment or not parts.path.strip("/") or re.search(r"[\s\x00-\x1f\x7f\\]", url):
        raise refused("bad_url", "is not the address of a repository")
    if not HOST.match(host):
        raise refused("bad_url", "names no valid host")
    if port != 443 and host not in allow_hosts:
        raise refused("bad_url", f"uses port {port}; only 443 is allowed")
    return host, port


def refused(code: str, what: str) -> IngestError:
    return IngestError(code, f"The repository's address {what}. Give one like https://github.com/owner/name.")


def check_revision(revision: str | None) -> None:
    if revision is not None and (not REVISION.match(revision) or ".." in revision or revision.endswith(".lock")):
        message = f"{revision[:80]!r} is not a branch, tag or commit. Give its plain name."
        raise IngestError("bad_revision", message)


def resolve(host: str, port: int, allowed: bool) -> list[str]:
    """The host's addresses, all public. git connects to the address checked here, not to a second answer."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise refused("unknown_host", f"names {host}, which cannot be found") from None
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    if not allowed and not all(is_public(a) for a in addresses):
        raise refused("private_host", f"leads to {host}, which is not on the public internet")
    return addresses


def is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.split("%")[0])
    inner = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    return ip.is_global and not ip.is_multicast and (inner is None or inner.is_global)


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def fetch(clone: Clone, revision: str | None) -> str:
    """The commit's full sha, checked out detached under `into`."""
    git(clone, "init", "--quiet", "--template=", ".")
    git(clone, "fetch", "--quiet", "--depth=1", "--no-tags", "--no-write-fetch-head", clone.url,
        f"+{revision or 'HEAD'}:refs/shiori/head")  # fmt: skip
    commit = git(clone, "rev-parse", "--verify", "refs/shiori/head^{commit}").strip()
    git(clone, "checkout", "--quiet", "--detach", "--force", commit)
    drop_links(clone, commit)
    return commit


def changes(clone: Clone, commit: str) -> tuple[tuple[str, int], ...]:
    """How many of the latest commits touched each file. Empty when the server does not tell: an order is no must."""
    brief = replace(clone, deadline=min(clone.deadline, time.monotonic() + HISTORY_SECONDS))
    try:
        git(brief, "fetch", "--quiet", f"--depth={HISTORY}", "--filter=blob:none", "--no-tags",
            "--no-write-fetch-head", clone.url, f"+{commit}:refs/shiori/history")  # fmt: skip
        names = git(brief, "log", "--format=", "--name-only", "--no-renames", "-z", commit).split("\0")
    except IngestError:
        return ()
    return tuple(sorted(Counter(name for name in names if name).items()))


def drop_links(clone: Clone, commit: str) -> None:
    """Links came as small files that hold their target; they are no source text."""
    for line in git(clone, "ls-tree", "-r", "-z", commit).split("\0"):
        mode, _, path = line.partition(" ")
        target = clone.into / path.partition("\t")[2]
        if mode == "120000" and target.is_file() and clone.into in target.resolve().parents:
            target.unlink()


def git(clone: Clone, *arguments: str) -> str:
    """Runs git within the clone's time and space; kills it, and what it started, beyond them."""
    command = ["git", *(part for option in clone.options for part in ("-c", option)), *arguments]
    out, errors = clone.into.parent / f".{clone.into.name}.out", clone.into.parent / f".{clone.into.name}.err"
    try:
        with out.open("wb") as stdout, errors.open("wb") as stderr:
            process = subprocess.Popen(
                command, cwd=clone.into, env=environment(clone.into), stdin=subprocess.DEVNULL, stdout=stdout,
                stderr=stderr, start_new_session=True,
            )  # fmt: skip
            watch(process, clone)
        if process.returncode != 0:
            raise failed(clone, errors.read_text("utf-8", "replace"))
        return out.read_text("utf-8", "surrogateescape")
    finally:
        out.unlink(missing_ok=True)
        errors.unlink(missing_ok=True)


def environment(home: Path) -> dict[str, str]:
    """Nothing of the user's or the machine's configuration, no prompts."""
    return {
        "PATH": os.environ.get("PATH", os.defpath), "HOME": str(home / ".git"), "LC_ALL": "C.UTF-8",
        "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "/bin/false", "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_ALLOW_PROTOCOL": "https", "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_CEILING_DIRECTORIES": str(home.parent),
    }  # fmt: skip


def watch(process: subprocess.Popen[bytes], clone: Clone) -> None:
    limits = clone.limits
    try:
        while process.poll() is None:
            if time.monotonic() > clone.deadline:
                raise IngestError("timeout", f"Fetching took more than {limits.clone_seconds:g} s. Upload an archive.")
            size, files = usage(clone.into)
            if size > limits.clone_bytes or files > 2 * limits.members:
                most = f"{limits.clone_bytes >> 20} MiB or {2 * limits.members:,} files"
                raise IngestError("too_large", f"The repository is larger than {most}. Upload a part as an archive.")
            time.sleep(POLL_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def usage(folder: Path) -> tuple[int, int]:
    """Bytes and files below a folder that is being written."""
    size = files = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(base, name)).st_size
            except OSError:
                continue
            files += 1
    return size, files


def failed(clone: Clone, errors: str) -> IngestError:
    last = next((line for line in reversed(errors.strip().split("\n")) if line), "git gave no reason")[:300]
    for pattern, code, message in (
        (r"couldn't find remote ref|not our ref|invalid refspec", "unknown_revision",
         "The repository has no such branch, tag or commit. Check its name."),
        (r"could not read Username|Authentication failed|error: 40[134]|not found", "not_found",
         f"No public repository at {clone.url}. Check the address; private ones must be uploaded as an archive."),
        (r"redirect|error: 30[1278]", "moved", f"{clone.url} points elsewhere. Give the repository's present address."),
        (r"SSL|certificate", "tls", f"{clone.url} has no valid certificate."),
    ):  # fmt: skip
        if re.search(pattern, errors):
            return IngestError(code, message)
    return IngestError("clone_failed", f"{clone.url} could not be fetched: {last}. Try again, or upload an archive.")
