"""An exported reading on its way to and from a file."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

CHUNK = 2**20  # bytes; a message takes 4 MiB


class FileRefused(Exception):
    """Says which file and what to do."""


def check_target(path: Path, force: bool) -> None:
    if path.is_dir():
        raise FileRefused(f"{path} is a folder: name a file in it")
    if not path.parent.is_dir():
        raise FileRefused(f"there is no folder {path.parent}")
    if path.exists() and not force:
        raise FileRefused(f"{path} exists: choose another name, or --force to overwrite it")


def write_whole(path: Path, chunks: Iterable[bytes]) -> int:
    """All of it under this name, or nothing: written beside it, synced, renamed. Mode 600. Returns the bytes."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            count = sum(file.write(chunk) for chunk in chunks)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return count


def chunks_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def prepend_line(path: Path, line: str) -> None:
    """A new first line; what was there follows. All or nothing, mode 600."""
    write_whole(path, [f"{line}\n".encode(), path.read_bytes()])
