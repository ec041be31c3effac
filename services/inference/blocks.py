"""Blocks: what a reading is cut into on its way to Redis, and the manifest that names every one of them.

    page       256 tokens of MLA latents, all MLA layers; written once, never changed (the last one may be short)
    snapshot   KDA and convolution state of one position, one safetensors file cut into parts
    log        the token ids of one segment, so that a reading can always be computed again

A block is a 64-byte header and a payload. Its *name* says what it is: a keyed hash over the rolling digest of what was
read, so that a tenant cannot test for another's text. Its *digest* in the manifest says which bytes it must have. Both
are checked before a byte of it reaches the engine.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import blake3
import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

MAX_VALUE = 2 * 1024 * 1024 - 64  # 1-2 MiB travel fastest, and an exact power of two costs a quarter more memory
NOTHING = "00" * 32  # the rolling digest before the first token
LOG_TOKENS = 256 * 1024
_HEADER = struct.Struct("<4s4sQQQ32x")  # magic, kind, first, last, bytes of payload; 64 bytes
_MAGIC = b"SHB1"
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_BY_NAME = {name: dtype for dtype, name in _DTYPES.items()}
_KINDS = {"page": b"page", "snapshot": b"snap", "log": b"tlog"}


class Damaged(Exception):
    """A block is missing, or is not what the manifest says."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key}: {why}")
        self.key = key


@dataclass(frozen=True)
class Ref:
    """Where a block is and which bytes it must have. `first` and `last` are positions (parts: bytes), half open."""

    kind: str
    name: str
    first: int
    last: int
    digest: str
    size: int


@dataclass(frozen=True)
class Block:
    ref: Ref
    data: bytes


@dataclass(frozen=True)
class Segment:
    tokens: int
    label: str
    blocks: tuple[Ref, ...]


@dataclass(frozen=True)
class Manifest:
    """A reading, whole: every block it needs. Immutable; its id is the keyed hash of its bytes."""

    fingerprint: str
    tokenizer: str
    position: int = 0
    digest: str = NOTHING  # the engine's rolling digest at `position`; names tokens and segmentation
    page_tokens: int = 256
    segments: tuple[Segment, ...] = ()
    pages: tuple[Ref, ...] = ()
    snapshot: tuple[Ref, ...] = ()
    format: int = field(default=1)

    def refs(self) -> list[Ref]:
        return [*(ref for segment in self.segments for ref in segment.blocks), *self.pages, *self.snapshot]

    @property
    def stored_bytes(self) -> int:
        return sum(ref.size for ref in self.refs())

    def full_pages(self) -> tuple[Ref, ...]:
        return tuple(page for page in self.pages if page.last - page.first == self.page_tokens)

    def check(self) -> None:
        """Pages, segments and snapshot must all speak of the same position."""
        ends = [0, *(page.last for page in self.pages)]
        if [page.first for page in self.pages] != ends[:-1] or ends[-1] != self.position:
            raise Damaged("manifest", f"its pages do not cover 0..{self.position}")
        if any(page.last - page.first != self.page_tokens for page in self.pages[:-1]):
            raise Damaged("manifest", "a page in the middle is short")
        if sum(segment.tokens for segment in self.segments) != self.position:
            raise Damaged("manifest", f"its segments do not add up to {self.position}")

    def begins(self, other: Manifest) -> bool:
        """Was everything in here read first in `other` too? Then `other` can be computed on top of it."""
        mine = [_identity(segment) for segment in self.segments]
        return mine == [_identity(segment) for segment in other.segments[: len(mine)]]

    def to_bytes(self) -> bytes:
        plain: dict[str, Any] = dict(vars(self))
        plain["segments"] = [[s.tokens, s.label, _rows(s.blocks)] for s in self.segments]
        plain["pages"], plain["snapshot"] = _rows(self.pages), _rows(self.snapshot)
        return not_a_power_of_two(json.dumps(plain, separators=(",", ":"), sort_keys=True).encode(), b" ")

    @staticmethod
    def from_bytes(data: bytes) -> Manifest:
        plain = json.loads(data)
        if plain["format"] != 1:
            raise Damaged("manifest", f"format {plain['format']} is not known here")
        plain["segments"] = tuple(Segment(n, label, _refs(rows)) for n, label, rows in plain["segments"])
        plain["pages"], plain["snapshot"] = _refs(plain["pages"]), _refs(plain["snapshot"])
        return Manifest(**plain)


def _identity(segment: Segment) -> tuple[int, tuple[str, ...]]:
    return segment.tokens, tuple(ref.digest for ref in segment.blocks)


def _rows(refs: Iterable[Ref]) -> list[list[Any]]:
    return [[r.kind, r.name, r.first, r.last, r.digest, r.size] for r in refs]


def _refs(rows: Iterable[list[Any]]) -> tuple[Ref, ...]:
    return tuple(Ref(*row) for row in rows)


class Names:
    """Keyed names: one key per tenant, so that equal texts of two tenants have unrelated names."""

    def __init__(self, tenant: str) -> None:
        self._key = blake3.blake3(tenant.encode(), derive_key_context="shiori vault names 2026").digest()

    def name(self, *parts: str | int | bytes) -> str:
        hasher = blake3.blake3(key=self._key)
        for part in parts:
            raw = part if isinstance(part, bytes) else str(part).encode()
            hasher.update(struct.pack("<Q", len(raw)) + raw)
        return hasher.hexdigest(20)


# --- out --------------------------------------------------------------------------------------------------------------


def page_blocks(names: Names, base: Manifest, digest: str, latents: torch.Tensor) -> list[Block]:
    """The pages behind those that `base` has full; `latents` [layers, tokens, width] begins there."""
    first, size = len(base.full_pages()) * base.page_tokens, base.page_tokens
    spans = [(at, min(at + size, latents.shape[1])) for at in range(0, latents.shape[1], size)]
    return [
        page_block(names.name("page", base.fingerprint, digest, first + a, first + z), (a, z), latents, first)
        for a, z in spans
    ]


def page_block(name: str, span: tuple[int, int], latents: torch.Tensor, first: int = 0) -> Block:
    """`span` counts within `latents`, which begins at position `first`."""
    rows = _bytes_of(latents)[:, span[0] : span[1]]
    shape = [latents.shape[0], span[1] - span[0], latents.shape[2]]
    return _block("page", name, (first + span[0], first + span[1]), _page_file(latents.dtype, shape, rows.tobytes()))


def _page_file(dtype: torch.dtype, shape: list[int], data: bytes) -> bytes:
    """A safetensors file of one tensor, by hand: the library copies once more."""
    entry = {"latents": {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [0, len(data)]}}
    header = json.dumps(entry, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data


def _bytes_of(latents: torch.Tensor) -> np.ndarray:
    """[layers, tokens, bytes], not copied. Numpy copies from here on: torch would start a team of OpenMP threads in
    every RPC thread, and on a busy machine they wait for one another ten times longer than a page takes."""
    return latents.contiguous().view(torch.uint8).numpy()


def snapshot_blocks(
    names: Names, fingerprint: str, position: int, digest: str, tensors: dict[str, torch.Tensor]
) -> list[Block]:
    # One entry of metadata only: safetensors writes several in an order that changes, and equal is equal bytes here.
    data = save_tensors(tensors, {"at": _at(position, digest)})
    room = MAX_VALUE - _HEADER.size
    spans = [(start, min(start + room, len(data))) for start in range(0, len(data), room)]
    return [
        _block("snapshot", names.name("snapshot", fingerprint, digest, position, *span), span, data[slice(*span)])
        for span in spans
    ]


def _at(position: int, digest: str) -> str:
    return f"{position} {digest}"


def log_blocks(names: Names, ids: list[int]) -> list[Block]:
    blocks = []
    for start in range(0, len(ids), LOG_TOKENS):
        piece = ids[start : start + LOG_TOKENS]
        payload = struct.pack(f"<{len(piece)}I", *piece)
        span = (start, start + len(piece))
        blocks.append(_block("log", names.name("log", *span, payload), span, payload))
    return blocks


def _block(kind: str, name: str, span: tuple[int, int], payload: bytes) -> Block:
    data = not_a_power_of_two(_HEADER.pack(_MAGIC, _KINDS[kind], *span, len(payload)) + payload, bytes(64))
    return Block(Ref(kind, name, *span, blake3.blake3(data).hexdigest(), len(data)), data)


def not_a_power_of_two(data: bytes, padding: bytes) -> bytes:
    return data + padding if len(data) & (len(data) - 1) == 0 else data


# --- in ---------------------------------------------------------------------------------------------------------------


def checked(ref: Ref, data: bytes | None) -> memoryview:
    """The payload of a block, or Damaged."""
    if data is None:
        raise Damaged(ref.name, f"{ref.kind} {ref.first}..{ref.last} is missing")
    if len(data) != ref.size or blake3.blake3(data).hexdigest() != ref.digest:
        raise Damaged(ref.name, f"{ref.kind} {ref.first}..{ref.last} has other bytes than were written")
    magic, kind, first, last, length = _HEADER.unpack_from(data)
    if (magic, kind, first, last) != (_MAGIC, _KINDS[ref.kind], ref.first, ref.last):
        raise Damaged(ref.name, f"is not {ref.kind} {ref.first}..{ref.last}")
    return memoryview(data)[_HEADER.size : _HEADER.size + length]


def latents_of(pages: list[memoryview], position: int) -> torch.Tensor:
    """[layers, position, width] from pages in order."""
    whole: torch.Tensor | None = None
    done = 0
    for page in pages:
        (length,) = struct.unpack_from("<Q", page)
        entry = json.loads(bytes(page[8 : 8 + length]))["latents"]
        layers, count, width = entry["shape"]
        if whole is None:
            whole = torch.empty(layers, position, width, dtype=_BY_NAME[entry["dtype"]])
            room = _bytes_of(whole)
        if (layers, width, whole.dtype) != (whole.shape[0], whole.shape[2], _BY_NAME[entry["dtype"]]):
            raise Damaged("page", f"at {done} has another shape than the one before")
        room[:, done : done + count] = np.frombuffer(page[8 + length :], np.uint8).reshape(layers, count, -1)
        done += count
    if whole is None or done != position:
        raise Damaged("page", f"{done} of {position} tokens")
    return whole


def tensors_of(parts: Iterable[memoryview], position: int, digest: str) -> dict[str, torch.Tensor]:
    """The state says itself where it belongs: one of another position must not be filed under this one."""
    data = b"".join(parts)
    (length,) = struct.unpack_from("<Q", data)
    at = json.loads(data[8 : 8 + length])["__metadata__"]["at"]
    if at != _at(position, digest):
        raise Damaged("snapshot", f"is of {at}, not of {_at(position, digest)}")
    return load_tensors(data)


def ids_of(payload: memoryview, ref: Ref) -> list[int]:
    return list(struct.unpack_from(f"<{ref.last - ref.first}I", payload))


def batches(sizes: Iterable[tuple[Any, int]], limit: int = 4 * 1024 * 1024) -> Iterator[list[Any]]:
    """Items in runs of a few MiB: long enough to fill a pipeline, short enough not to hold a reading twice."""
    batch: list[Any] = []
    total = 0
    for item, size in sizes:
        if batch and total + size > limit:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield batch
