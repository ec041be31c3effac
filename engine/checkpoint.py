"""The tensors of a folder in released format, by name: one file of safetensors, or shards behind an index.

All headers are read and checked when a Checkpoint is made, before any memory is taken; the numbers go from the files to
their places on a device (reading.py).
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.reading import Part, Reader, ReadingError

Shape = tuple[int, ...]
Inventory = dict[str, tuple[torch.dtype, Shape]]  # name: (dtype, shape)
Progress = Callable[[int, int], None]  # bytes read so far, bytes of all tensors

_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
_LONGEST_HEADER = 100_000_000  # bytes, as the format has it
_AGAIN = "copy or download this file again"


class CheckpointError(ValueError):
    """A checkpoint that does not fit its config.json, or files that are not whole; the message names them."""


@dataclass(frozen=True)
class _Entry:
    shard: "_Shard"
    dtype: torch.dtype  # uint8 stands for those that no model here has
    shape: Shape
    start: int  # byte of the file
    stop: int


class _Shard:
    """One file of safetensors: 8 bytes of length, a JSON header, then the numbers without gaps."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise CheckpointError(f"{path} {_why_not(error)}: {_AGAIN}") from None
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self.entries = self._entries()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()

    def read(self, start: int, into: memoryview) -> None:
        """Bytes start.. of the file, as many as ``into`` takes. From any thread."""
        done = 0
        while done < len(into):
            try:
                count = os.preadv(self._file.fileno(), [into[done:]], start + done)
            except OSError as error:
                raise ReadingError(f"{self.path} cannot be read at byte {start + done} ({error.strerror})") from error
            if count == 0:
                raise ReadingError(f"{self.path} became shorter while it was read: it ends at byte {start + done}")
            done += count

    def _entries(self) -> dict[str, _Entry]:
        start, header = self._header()
        header.pop("__metadata__", None)
        try:
            found = {name: self._entry(start, **fields) for name, fields in header.items()}
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise self._damaged(f"an entry of its header is not of safetensors ({error})") from None
        self._check_layout(start, found)
        return found

    def _header(self) -> tuple[int, dict[str, Any]]:
        """The byte at which the numbers begin, and what the header says."""
        prefix = bytearray(min(8, self._size))
        self.read(0, memoryview(prefix))
        length = int.from_bytes(prefix, "little")
        if self._size < 8 or length > min(self._size - 8, _LONGEST_HEADER):
            raise self._damaged(
                f"its header is not all there, or it is no file of safetensors ({self._size:,} bytes; "
                "a pointer of Git LFS has some 130)"
            )
        text = bytearray(length)
        self.read(8, memoryview(text))
        try:
            header = json.loads(bytes(text))
        except ValueError:
            header = None
        if not isinstance(header, dict):
            raise self._damaged("its header is not JSON")
        return 8 + length, header

    def _entry(self, base: int, dtype: str, shape: list[int], data_offsets: list[int]) -> _Entry:
        first, last = data_offsets
        kind = _DTYPES.get(dtype, torch.uint8)
        if dtype in _DTYPES and last - first != prod(shape) * kind.itemsize:
            raise ValueError(f"{dtype} {shape} in {last - first} bytes")
        return _Entry(self, kind, tuple(shape), base + first, base + last)

    def _check_layout(self, start: int, entries: dict[str, _Entry]) -> None:
        """The tensors lie one after another, and the last ends where the file does."""
        at = start
        for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
            if entry.start != at or entry.stop < at:
                raise self._damaged(f"{name} does not begin where the tensor before it ends")
            at = entry.stop
        if at > self._size:
            raise self._damaged(f"it is cut short: {at:,} bytes by its header, {self._size:,} are there")
        if at < self._size:
            raise self._damaged(f"it has {self._size - at:,} bytes more than its header knows of")

    def _damaged(self, how: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is damaged: {how}: {_AGAIN}")


class Checkpoint:
    """The tensors of a folder by name. A context: the files are open, and buffers held, until its end.

    ``progress`` hears of every piece that has been read.
    """

    def __init__(
        self, folder: str | Path, device: str | torch.device = "cpu", progress: Progress | None = None
    ) -> None:
        self.folder, self._device, self._progress = Path(folder), torch.device(device), progress
        self._shards: list[_Shard] = []
        self._reader: Reader | None = None
        try:
            for file in _files(self.folder):
                self._shards.append(_Shard(self.folder / file))
            self._where = self._all_entries()
        except BaseException:
            self.close()
            raise
        self._total, self._done = sum(e.stop - e.start for e in self._where.values()), 0

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._reader:
            self._reader.close()
        for shard in self._shards:
            shard.close()

    def inventory(self) -> Inventory:
        return {name: (entry.dtype, entry.shape) for name, entry in self._where.items()}

    def shape(self, name: str) -> Shape:
        return self._where[name].shape

    def read(self, places: Mapping[str, Tensor]) -> None:
        """Fills each place, a tensor on this checkpoint's device, with the tensor of that name.

        In the order of the files, in large pieces, several at a time; converted where the dtypes differ. A place that
        does not lie in one piece is filled from one that does. On a GPU what is launched on the current stream
        afterwards finds the numbers there.
        """
        self._reader = self._reader or Reader.of(self._device)
        whole = {
            name: x if _lies_in_one_piece(x) else torch.empty_like(x, memory_format=torch.contiguous_format)
            for name, x in places.items()
        }
        try:
            for count in self._reader.read([self._part(name, place) for name, place in whole.items()]):
                self._done += count
                if self._progress:
                    self._progress(self._done, self._total)
        except ReadingError as error:
            raise CheckpointError(f"{error}; nothing was loaded: look at the disk, or {_AGAIN}") from error
        for name, place in places.items():
            if whole[name] is not place:
                place.copy_(whole[name])

    def _part(self, name: str, place: Tensor) -> Part:
        entry = self._where[name]
        if place.shape.numel() != prod(entry.shape):
            raise ValueError(f"{name} is {list(entry.shape)}, its place {list(place.shape)}")
        return Part(entry.shard, entry.start, entry.dtype, place.view(-1))

    def _all_entries(self) -> dict[str, _Entry]:
        found: dict[str, _Entry] = {}
        for shard in self._shards:
            for name, entry in shard.entries.items():
                other = found.setdefault(name, entry)
                if other is not entry:
                    raise CheckpointError(f"{name} is both in {other.shard.path} and in {shard.path}: {_AGAIN}")
        return found


def _lies_in_one_piece(x: Tensor) -> bool:
    """Also where a dimension of size 1 has an odd stride."""
    return x.squeeze().is_contiguous()


def _files(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return ["model.safetensors"]
    try:
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} cannot be read as an index ({error!r}): {_AGAIN}") from None


def _why_not(error: OSError) -> str:
    return "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be opened ({error.strerror})"
