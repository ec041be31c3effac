"""Members of a zip within bounds: bytes are counted while unpacking, declared sizes are not trusted."""

import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import IO

from services.ingest.types import LIMITS, IngestError, Limits

CHUNK = 1 << 16
BROKEN = (  # all that zipfile may raise for bytes that are no good zip
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error,
    EOFError, OSError, NotImplementedError, RuntimeError, ValueError, OverflowError,
)  # fmt: skip


class Budget:
    """Bytes that one archive may still unpack to, and members it may still have."""

    def __init__(self, name: str, limits: Limits = LIMITS):
        self.name, self.limits = name, limits
        self.left, self.members = limits.inflated_bytes, 0

    def take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise self.bomb(f"unpacks to more than {self.limits.inflated_bytes >> 20} MiB")

    def member(self) -> None:
        self.members += 1
        if self.members > self.limits.members:
            raise self.bomb(f"has more than {self.limits.members:,} members")

    def check_ratio(self, unpacked: int, packed: int) -> None:
        if unpacked >= self.limits.ratio_from and unpacked > self.limits.ratio * max(1, packed):
            raise self.bomb(f"has a member that grows over {self.limits.ratio} times when unpacked")

    def bomb(self, what: str) -> IngestError:
        return IngestError(
            "archive_bomb", f"{self.name} {what}. Upload a smaller archive with only what is to be read."
        )


def open_zip(data: bytes, name: str, budget: Budget) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except BROKEN as error:
        raise damaged(name, error) from None
    for _ in archive.infolist():
        budget.member()
    return archive


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, budget: Budget) -> bytes:
    if info.flag_bits & 1:
        raise IngestError("encrypted", f"{budget.name} is encrypted. Remove the password and upload it again.")
    try:
        with archive.open(info) as stream:
            return read_bounded(stream, budget, lambda: info.compress_size)
    except BROKEN as error:
        raise damaged(budget.name, error) from None


def read_bounded(stream: IO[bytes], budget: Budget, packed: Callable[[], int], keep: int | None = None) -> bytes:
    """All bytes of the stream, counted as they come; beyond `keep` they are counted but not kept."""
    out = io.BytesIO()
    total = 0
    while chunk := stream.read(CHUNK):
        total += len(chunk)
        budget.take(len(chunk))
        budget.check_ratio(total, packed())
        if keep is None or total <= keep:
            out.write(chunk)
    return out.getvalue()


def damaged(name: str, error: Exception) -> IngestError:
    return IngestError("damaged", f"{name} is damaged or cut short ({error}). Upload it again from the original.")
