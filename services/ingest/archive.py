"""Archives to files in memory: nothing is written to disk, no link is followed, every inflated byte is counted."""

import gzip
import io
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from services.ingest.members import CHUNK, Budget, damaged, open_zip, read_member
from services.ingest.types import IngestError

SHA = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?$")
DRIVE = re.compile(r"[A-Za-z]:")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Member:
    path: str  # as in the archive, "/" between parts
    data: bytes | None  # None: not kept, because of `reason`
    reason: str | None = None


@dataclass
class Source:
    """An opened archive or folder: its members once, and its commit when it names one."""

    members: Iterator[Member]
    revision: str | None = None


def safe_path(name: str, budget: Budget) -> str:
    """The member's path; refuses those that would leave the archive's own folder."""
    path = CONTROL.sub("\ufffd", name.replace("\\", "/"))
    if path.startswith("/") or DRIVE.match(path) or ".." in path.split("/"):
        raise unsafe(budget.name, f"a member named {path[:80]!r}")
    return str(PurePosixPath(path))


def unsafe(name: str, what: str) -> IngestError:
    return IngestError("unsafe_path", f"{name} has {what}, which leads out of the archive. Pack it again without it.")


def check_link(path: str, target: str, budget: Budget) -> Member:
    """A link is never followed: one inside the archive is left out, one that leads outside is refused."""
    at = list(PurePosixPath(path).parent.parts)
    target = target.replace("\\", "/")
    if target.startswith("/") or DRIVE.match(target):
        raise unsafe(budget.name, f"a link {path[:80]!r} to {target[:80]!r}")
    for part in target.split("/"):
        if part == "..":
            if not at:
                raise unsafe(budget.name, f"a link {path[:80]!r} to {target[:80]!r}")
            at.pop()
        elif part not in ("", "."):
            at.append(part)
    return Member(path, None, "link")


class Names:
    """Refuses a second member of the same name: which of the two is the file?"""

    def __init__(self, budget: Budget):
        self.seen: set[str] = set()
        self.budget = budget

    def add(self, path: str) -> None:
        if path in self.seen:
            message = f"{self.budget.name} has two members named {path[:80]!r}. Pack it again."
            raise IngestError("duplicate_member", message)
        self.seen.add(path)


def zip_source(data: bytes, budget: Budget) -> Source:
    archive = open_zip(data, budget.name, budget)
    comment = archive.comment.decode("ascii", "replace").strip()
    return Source(zip_members(archive, budget), comment if SHA.match(comment) else None)


def zip_members(archive: zipfile.ZipFile, budget: Budget) -> Iterator[Member]:
    names = Names(budget)
    for info in archive.infolist():
        path = safe_path(zip_name(info), budget)
        if info.is_dir():
            continue
        names.add(path)
        mode = info.external_attr >> 16
        if stat.S_ISLNK(mode):
            yield check_link(path, read_member(archive, info, budget)[:4096].decode("utf-8", "replace"), budget)
        elif stat.S_IFMT(mode) and not stat.S_ISREG(mode):
            yield Member(path, None, "special file")
        else:
            yield kept(path, read_member(archive, info, budget), budget)


def zip_name(info: zipfile.ZipInfo) -> str:
    """Names without the UTF-8 flag are often UTF-8 all the same."""
    name = info.orig_filename.split("\0")[0]
    if info.flag_bits & 0x800:
        return name
    try:
        return name.encode("cp437").decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError):
        return name


def kept(path: str, data: bytes, budget: Budget) -> Member:
    return Member(path, data) if len(data) <= budget.limits.file_bytes else Member(path, None, "too large")


class Counted(io.RawIOBase):
    """A stream whose bytes are taken from the budget as they are read."""

    def __init__(self, stream: IO[bytes], packed: IO[bytes], budget: Budget):
        self.stream, self.packed, self.budget, self.total = stream, packed, budget, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(min(size, 16 * CHUNK) if size >= 0 else CHUNK)
        self.total += len(data)
        self.budget.take(len(data))
        if self.stream is not self.packed:
            self.budget.check_ratio(self.total, self.packed.tell())
        return data


def tar_source(data: bytes, budget: Budget) -> Source:
    packed: IO[bytes] = io.BytesIO(data)
    stream: Any = gzip.GzipFile(fileobj=packed) if data.startswith(b"\x1f\x8b") else packed
    counted: Any = Counted(stream, packed, budget)
    try:
        archive = tarfile.open(fileobj=counted, mode="r|", errors="surrogateescape")  # noqa: SIM115
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        raise damaged(budget.name, error) from None
    comment = archive.pax_headers.get("comment", "")
    return Source(tar_members(archive, budget), comment if SHA.match(comment) else None)


def tar_members(archive: tarfile.TarFile, budget: Budget) -> Iterator[Member]:
    names = Names(budget)
    try:
        for info in archive:
            budget.member()
            path = safe_path(readable(info.name), budget)
            if not info.isdir():
                names.add(info.name)
                yield tar_member(archive, info, path, budget)
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps all headers; we do not need them
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, UnicodeError, OverflowError) as error:
        raise damaged(budget.name, error) from None


def tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo, path: str, budget: Budget) -> Member:
    if info.issym() or info.islnk():
        base = path if info.issym() else "x"  # a hard link names its target from the top
        return Member(path, None, check_link(base, readable(info.linkname), budget).reason)
    if not info.isreg() or info.issparse():
        return Member(path, None, "special file")
    if info.size > budget.limits.file_bytes:
        return Member(path, None, "too large")
    stream = archive.extractfile(info)
    data = stream.read() if stream else b""
    if len(data) != info.size:
        raise damaged(budget.name, EOFError("a member is cut short"))
    return Member(path, data)


def readable(name: str) -> str:
    """File names are bytes: what is not UTF-8 in them becomes a replacement character."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def folder_source(root: Path, budget: Budget) -> Source:
    return Source(folder_members(root, budget), head_of(root / ".git"))


def folder_members(root: Path, budget: Budget) -> Iterator[Member]:
    """Regular files below `root`, without .git; links are seen and not followed."""
    waiting = [root]
    while waiting:
        for entry in sorted(waiting.pop().iterdir()):
            path = CONTROL.sub("\ufffd", readable(entry.relative_to(root).as_posix()))
            mode = entry.lstat().st_mode
            if stat.S_ISDIR(mode):
                waiting += [entry] if entry.name != ".git" else []
                continue
            budget.member()
            yield file_member(entry, path, mode, budget)


def file_member(entry: Path, path: str, mode: int, budget: Budget) -> Member:
    if not stat.S_ISREG(mode):
        return Member(path, None, "link" if stat.S_ISLNK(mode) else "special file")
    if entry.lstat().st_size > budget.limits.file_bytes:
        return Member(path, None, "too large")
    data = entry.read_bytes()
    budget.take(len(data))
    return Member(path, data)


def head_of(git: Path) -> str | None:
    """The commit a clone stands on, when its HEAD is detached as clone_repository leaves it."""
    try:
        head = (git / "HEAD").read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return head if SHA.match(head) else None
