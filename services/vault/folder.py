"""Objects as files below a folder, lasting: what was put is there whole after a power cut, or not there at all.

Of our own because obstore's local store does not fsync: after a power cut its objects may be empty under their names.
An object is written under a name that no key can have, synced, and only then linked to its own.
"""

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from services.vault.resp import ValueTooLong

INCOMING = "~incoming"
FORGOTTEN_S = 24 * 3600  # nobody writes one object for so long


class Folder:
    """root is made if missing, its owner's only. Raises OSError; also when root is gone, as an unmounted disk is."""

    def __init__(self, root: Path) -> None:
        self._root, self._incoming = root, root / INCOMING
        _make(self._incoming)
        self._clear()

    def put(self, key: str, pieces: Sequence[memoryview], replace: bool) -> bool:
        path = self._root / key
        if not replace and path.exists():
            return False
        with self._written(pieces) as temporary:
            _make(path.parent)
            if not _named(temporary, path, replace):
                return False
        _sync(path.parent)
        return True

    def get(self, key: str) -> bytes | None:
        with self._missing_is_none():
            return (self._root / key).read_bytes()
        return None

    def get_into(self, key: str, into: memoryview) -> int | None:
        with self._missing_is_none(), open(self._root / key, "rb", buffering=0) as file:
            length = os.fstat(file.fileno()).st_size
            if length > len(into):
                raise ValueTooLong(key, length, len(into))
            return _read(file.fileno(), into[:length])
        return None

    def delete(self, keys: Sequence[str]) -> None:
        paths = [self._root / key for key in keys]
        for path in paths:
            with self._missing_is_none():
                path.unlink()
        for folder in {path.parent for path in paths}:
            with suppress(FileNotFoundError):
                _sync(folder)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        with self._missing_is_none(), os.scandir(self._root / prefix) as entries:
            for entry in entries:
                key = f"{prefix}/{entry.name}" if prefix else entry.name
                if entry.is_dir(follow_symlinks=False):
                    yield from self.list(key) if entry.name != INCOMING else ()
                else:
                    with suppress(FileNotFoundError):
                        yield key, entry.stat().st_size

    def exists(self, keys: Sequence[str]) -> set[str]:
        found = {key for key in keys if (self._root / key).is_file()}
        if len(found) < len(keys):
            self._check_root()
        return found

    @contextmanager
    def _missing_is_none(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            self._check_root()

    def _check_root(self) -> None:
        """An unmounted disk must not look like a tier that lost everything."""
        os.stat(self._incoming)

    @contextmanager
    def _written(self, pieces: Sequence[memoryview]) -> Iterator[Path]:
        path = self._incoming / uuid.uuid4().hex
        try:
            with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _clear(self) -> None:
        """What a killed process left half written."""
        for path in self._incoming.iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - FORGOTTEN_S:
                    path.unlink()


def _make(folder: Path) -> None:
    if folder.is_dir():
        return
    _make(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    _sync(folder.parent)


def _named(temporary: Path, path: Path, replace: bool) -> bool:
    if replace:
        os.replace(temporary, path)
        return True
    try:
        os.link(temporary, path)  # unlike rename it never takes the place of what is there
    except FileExistsError:
        return False
    return True


def _sync(folder: Path) -> None:
    """Makes names in the folder last."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _read(file: int, into: memoryview) -> int:
    done = 0
    while done < len(into) and (got := os.readv(file, [into[done:]])):
        done += got
    return done
