"""Blocks: what a reading is cut into on its way to Redis and the cold tier, sealed and named by what is in them.

    header, 64 bytes   magic, kind, first, last, bytes of payload, nonce
    payload            AES-256-GCM under the tenant's key
    tag, 16 bytes

The *name* is a keyed hash of kind, place and payload (and, for a snapshot, of the position it belongs to). Header and
name are the cipher's associated data: a block that was changed, cut, moved to another place or put under another name
does not open. Nothing of a block is used before it has opened.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeAlias

from cryptography.exceptions import InvalidTag

from services.vault.keys import TenantKey

Buffer: TypeAlias = bytes | bytearray | memoryview

MAX_VALUE = 2 * 1024 * 1024 - 64  # 1-2 MiB travel fastest, and an exact power of two costs a quarter more memory
SMALL_VALUE = 512 * 1024 - 64
HEADER = struct.Struct("<4s4sQQQ12s20x")
OVERHEAD = HEADER.size + 16
_MAGIC = b"SHB2"
_KINDS = {"page": b"page", "snapshot": b"snap", "log": b"tlog", "manifest": b"mani"}


class Damaged(Exception):
    """A block is missing, or is not what its name says."""

    def __init__(self, name: str, why: str, what: str = "bytes") -> None:
        super().__init__(f"{name}: {why}")
        self.name, self.what = name, what


@dataclass(frozen=True)
class Ref:
    """Where a block is. `first`, `last`: positions (in a snapshot's parts: bytes), half open; `size`: stored bytes."""

    kind: str
    name: str
    first: int
    last: int
    size: int

    @property
    def payload_bytes(self) -> int:
        return self.size - OVERHEAD


@dataclass(frozen=True)
class Block:
    ref: Ref
    data: bytearray


def name_of(key: TenantKey, kind: str, span: tuple[int, int], digest: bytes, at: str = "") -> str:
    return key.name(kind, *span, at, digest)


def sealed(key: TenantKey, kind: str, span: tuple[int, int], payload: Buffer, at: str = "") -> Block:
    """`payload` must be contiguous. `at` says what else the name stands for: the position and digest of a snapshot."""
    name = name_of(key, kind, span, key.digest(payload), at)
    length, nonce = memoryview(payload).nbytes, key.nonce(name)
    data = bytearray(OVERHEAD + length)
    HEADER.pack_into(data, 0, _MAGIC, _KINDS[kind], *span, length, nonce)
    about = bytes(data[: HEADER.size]) + name.encode()
    key.cipher.encrypt_into(nonce, payload, about, memoryview(data)[HEADER.size :])
    return Block(Ref(kind, name, *span, len(data)), data)


def opened(key: TenantKey, ref: Ref, data: memoryview, into: memoryview) -> int:
    """Checks the block and writes its payload to `into`; returns its length. Damaged when anything differs."""
    if len(data) != ref.size:
        raise Damaged(ref.name, f"{ref.kind} {ref.first}..{ref.last} has {len(data)} bytes, not {ref.size}")
    header = HEADER.unpack_from(data)
    if header[:5] != (_MAGIC, _KINDS[ref.kind], ref.first, ref.last, ref.payload_bytes):
        raise Damaged(ref.name, f"is not {ref.kind} {ref.first}..{ref.last}")
    about = bytes(data[: HEADER.size]) + ref.name.encode()
    try:
        key.cipher.decrypt_into(header[5], data[HEADER.size :], about, into[: ref.payload_bytes])
    except InvalidTag:
        raise Damaged(ref.name, f"{ref.kind} {ref.first}..{ref.last} has other bytes than were written") from None
    return ref.payload_bytes


def open_manifest(key: TenantKey, name: str, data: bytes) -> bytes:
    """The plain bytes of a manifest's block, which is its own only witness."""
    if len(data) < OVERHEAD:
        raise Damaged(name, "the manifest is cut short", "manifest")
    ref = Ref("manifest", name, 0, 0, len(data))
    plain = bytearray(ref.payload_bytes)
    try:
        opened(key, ref, memoryview(data), memoryview(plain))
    except Damaged as damaged:
        raise Damaged(name, "the manifest is damaged", "manifest") from damaged
    return bytes(plain)


def page_tokens(row_bytes: int) -> int:
    """Tokens in a page, for `row_bytes` of latents a token over all layers: a value just below an allocator's class.

    256 (a page of the engine) where that fills a 2 MiB value, as for the 48B; else as many as fill 512 KiB - 64.
    """
    if 0.9 * MAX_VALUE <= 256 * row_bytes + OVERHEAD <= MAX_VALUE:
        return 256
    return max(1, (SMALL_VALUE - OVERHEAD) // row_bytes)
