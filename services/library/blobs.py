"""Uploaded bytes, by their sha256: `{data_dir}/blobs/{sha256}`."""

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from services.errors import NotFound, TooLarge

CHUNK = 1 << 20
NAME = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Blob:
    sha256: str
    bytes: int


def store(folder: Path, stream: BinaryIO, limit: int) -> Blob:
    """Copies a stream under its hash; stops as soon as it is larger than `limit`."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".incoming-")
    try:
        with os.fdopen(handle, "wb") as out:
            blob = _copy(stream, out, limit)
        os.replace(temporary, folder / blob.sha256)
        return blob
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _copy(stream: BinaryIO, out: BinaryIO, limit: int) -> Blob:
    digest, size = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK):
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"The file is larger than {limit} bytes.", limit=limit)
        digest.update(chunk)
        out.write(chunk)
    return Blob(digest.hexdigest(), size)


def path(folder: Path, sha256: str) -> Path:
    if not NAME.fullmatch(sha256) or not (folder / sha256).is_file():
        raise NotFound(f"The bytes {sha256[:12]}… are gone.")
    return folder / sha256


def delete(folder: Path, sha256: str) -> None:
    if NAME.fullmatch(sha256):
        (folder / sha256).unlink(missing_ok=True)
