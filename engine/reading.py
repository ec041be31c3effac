"""Numbers out of files to their places on a device: large reads, several at a time, no second copy on the device.

On a GPU each piece is read into one of a few pinned buffers and copied from there while others are read: the host holds
BUFFERS · PIECE bytes, whatever the size of the model. On a CPU one piece after another, through one buffer.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

import torch
from torch import Tensor

PIECE = 16 * 2**20  # bytes of one read
THREADS = 8  # one copies some 5 GB/s out of the file cache; a device takes ten times that
BUFFERS = 2 * THREADS  # half are being read into while the others are being copied: 256 MiB


class ReadingError(OSError):
    """A file that cannot be read to its end; the message names it."""


class File(Protocol):
    path: Path

    def read(self, start: int, into: memoryview) -> None: ...


@dataclass(frozen=True)
class Part:
    """Numbers that lie one after another in a file, and their place."""

    file: File
    start: int  # byte of the file
    dtype: torch.dtype  # in the file
    place: Tensor  # [n] contiguous, on the device, of any dtype

    @property
    def nbytes(self) -> int:
        return self.place.numel() * self.dtype.itemsize

    def cut(self, count: int) -> tuple["Part", "Part"]:
        """The first ``count`` numbers, and the others."""
        rest = replace(self, start=self.start + count * self.dtype.itemsize, place=self.place[count:])
        return replace(self, place=self.place[:count]), rest


def pieces(parts: Iterable[Part], size: int) -> Iterator[list[Part]]:
    """The parts in the order of the files, cut and joined to pieces of at most ``size`` bytes without gaps."""
    piece: list[Part] = []
    used = 0
    for rest in sorted(parts, key=lambda part: (part.file.path, part.start)):
        while rest.place.numel():
            fits = (size - used) // rest.dtype.itemsize
            if piece and not (fits and _joins(piece, rest)):
                yield piece
                piece, used = [], 0
                continue
            part, rest = rest.cut(min(fits, rest.place.numel()))
            piece.append(part)
            used += part.nbytes
    if piece:
        yield piece


def _joins(piece: list[Part], part: Part) -> bool:
    """Whether ``part`` goes on where the piece ends, at an address that its dtype may have in the buffer."""
    first, last = piece[0], piece[-1]
    follows = part.file is last.file and part.start == last.start + last.nbytes
    return follows and (part.start - first.start) % part.dtype.itemsize == 0


@dataclass(frozen=True)
class _Buffer:
    memory: Tensor  # [PIECE] bytes; pinned for a GPU
    copied: torch.cuda.Event | None  # the copies out of it


class Reader:
    def __init__(self, device: torch.device, threads: int, size: int = PIECE) -> None:
        cuda = device.type == "cuda"
        self._device, self._size = device, size
        self._stream = torch.cuda.Stream(device) if cuda else None
        self._pool = ThreadPoolExecutor(threads, "weights") if threads > 1 else None
        self._buffers: SimpleQueue[_Buffer] = SimpleQueue()
        memory = torch.empty(BUFFERS if self._pool else 1, size, dtype=torch.uint8, device="cpu", pin_memory=cuda)
        for row in memory:
            self._buffers.put(_Buffer(row, torch.cuda.Event(blocking=True) if cuda else None))

    @classmethod
    def of(cls, device: torch.device) -> "Reader":
        """On a CPU in one thread: converting uses all of torch's."""
        return cls(device, THREADS if device.type == "cuda" else 1)

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown()
        if self._stream:
            self._stream.synchronize()  # the buffers may go

    def read(self, parts: Iterable[Part]) -> Iterator[int]:
        """Fills the parts' places; yields the bytes of each piece when it has been read. To be run to its end.

        The first error ends it, when no thread writes anywhere any more.
        """
        found = list(pieces(parts, self._size))
        if self._stream:  # a place may be memory that work on the current stream still uses
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        try:
            yield from self._moved_side_by_side(found) if self._pool and len(found) > 1 else map(self._move, found)
        finally:
            if self._stream:
                torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def _moved_side_by_side(self, found: list[list[Part]]) -> Iterator[int]:
        assert self._pool
        moves: list[Future[int]] = [self._pool.submit(self._move, piece) for piece in found]
        try:
            for move in moves:
                yield move.result()
        finally:
            for move in moves:
                move.cancel()
            wait(moves)

    def _move(self, piece: list[Part]) -> int:
        start, count = piece[0].start, sum(part.nbytes for part in piece)
        buffer = self._buffers.get()
        try:
            if buffer.copied:
                buffer.copied.synchronize()
            piece[0].file.read(start, buffer.memory[:count].numpy().data)
            with self._on_stream():
                for part in piece:
                    at = part.start - start
                    self._place(buffer.memory[at : at + part.nbytes].view(part.dtype), part.place)
                if buffer.copied:
                    buffer.copied.record(self._stream)
        finally:
            self._buffers.put(buffer)
        return count

    def _place(self, staged: Tensor, place: Tensor) -> None:
        if self._stream and staged.dtype != place.dtype:  # converted there, not on the host
            staged = staged.to(self._device, non_blocking=True)
        place.copy_(staged, non_blocking=True)

    def _on_stream(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._stream) if self._stream else nullcontext()
