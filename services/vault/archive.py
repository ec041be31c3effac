"""A reading as one file: made here, refused when a bit of it was changed, when it ends early, or when another model
made it.

    magic "SHIORI2\\n", id of the master key (4 bytes), salt (16 bytes)
    frames: length (4 bytes, little endian), AES-256-GCM under a key derived from master key and salt

Each frame's nonce and associated data are its number, so frames cannot be dropped, doubled or exchanged; the first
holds the table of contents, the others a payload each, in its order; the last is empty. Only who has the master key
can read or make one.
"""

from __future__ import annotations

import json
import secrets
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services import errors
from services.vault.keys import MasterKey, TenantKey, derived
from services.vault.manifest import Layout, Manifest, Rung, Segment
from services.vault.sealing import MAX_VALUE, Block, Ref, sealed
from services.vault.vault import Vault
from services.vault.views import Mark

_MAGIC = b"SHIORI2\n"
_HEADER = len(_MAGIC) + 4 + 16
_TABLE_MAX = 256 * 1024 * 1024


class Refused(errors.InvalidInput):
    """Says why the file is not taken. Nothing was stored."""

    code, title = "archive_refused", "The file is not taken"


@dataclass(frozen=True)
class Place:
    """A bookmark, in a file."""

    name: str
    position: int
    digest: str
    pinned: bool


def export(vault: Vault, tenant: str, manifest: Manifest, marks: Iterable[Mark]) -> Iterator[bytes]:
    """The file, a frame at a time. Raises Lost when a block is damaged in every tier."""
    master, salt = vault.keys.newest, secrets.token_bytes(16)
    frames = _Frames(master, salt)
    yield _MAGIC + master.id + salt
    yield frames.sealed(json.dumps(_table(manifest, marks), separators=(",", ":")).encode())
    for _, payload in vault.store.blocks.fetch(tenant, vault.keys.of(tenant), manifest.refs()):
        yield frames.sealed(payload)
    yield frames.sealed(b"")


def load(
    vault: Vault, tenant: str, chunks: Iterable[bytes], fingerprint: str, tokenizer: str
) -> tuple[Manifest, list[Place]]:
    """Stores the blocks and returns the manifest that names them, and its bookmarks; no head names it yet."""
    source = _Source(chunks)
    frames = _opening(vault, source.take(_HEADER))
    table = json.loads(frames.opened(source, _TABLE_MAX))
    if (table["fingerprint"], table["tokenizer"]) != (fingerprint, tokenizer):
        raise Refused(
            f"another model made this reading (fingerprint {table['fingerprint'][:12]}…, here {fingerprint[:12]}…); "
            "read the source again, or run the engine that made it"
        )
    key, places = vault.keys.of(tenant), [Place(*row) for row in table.pop("marks")]
    store = _Restored(vault, tenant, key)
    manifest = _manifest(table, key, lambda row, at: store.put(row, frames.opened(source, MAX_VALUE), at))
    if frames.opened(source, 0) or not source.ended():
        raise Refused("the file goes on behind its end")
    store.flush()
    manifest.check()
    return manifest, places


# --- the table --------------------------------------------------------------------------------------------------------


def _table(manifest: Manifest, marks: Iterable[Mark]) -> dict[str, Any]:
    """Without names: those are the tenant's own."""
    rows = lambda refs: [[r.kind, r.first, r.last, r.payload_bytes] for r in refs]  # noqa: E731
    plain: dict[str, Any] = dict(vars(manifest))
    plain["layout"] = vars(manifest.layout) if manifest.layout else None
    plain["segments"] = [[s.tokens, s.label, rows(s.log), s.digest] for s in manifest.segments]
    plain["pages"] = rows(manifest.pages)
    plain["rungs"] = [[r.position, r.digest, r.seconds, rows(r.parts)] for r in manifest.rungs]
    plain["marks"] = [[m.name, m.view.position, m.view.digest, m.pinned] for m in marks]
    return plain


def _manifest(table: dict[str, Any], key: TenantKey, put: Any) -> Manifest:
    """In the order of Manifest.refs: logs, pages, rungs' parts."""
    segments = tuple(
        Segment(n, label, tuple(put(row, "") for row in rows), end) for n, label, rows, end in table["segments"]
    )
    pages = tuple(put(row, "") for row in table["pages"])
    rungs = tuple(Rung(p, d, s, tuple(put(row, f"{p} {d}") for row in rows)) for p, d, s, rows in table["rungs"])
    layout = table["layout"]
    tensors = tuple((name, kind, tuple(shape)) for name, kind, shape in layout["tensors"]) if layout else ()
    made: dict[str, Any] = {"segments": segments, "pages": pages, "rungs": rungs}
    made["layout"] = Layout(tuple(layout["latents"]), tensors) if layout else None
    return Manifest(**(table | made))


class _Restored:
    """Blocks sealed again under the importing tenant's key, a few MiB at a time."""

    def __init__(self, vault: Vault, tenant: str, key: TenantKey) -> None:
        self._vault, self._tenant, self._key = vault, tenant, key
        self._blocks: list[Block] = []

    def put(self, row: list[Any], payload: bytes, at: str) -> Ref:
        kind, first, last, size = row
        if len(payload) != size:
            raise Refused(f"{kind} {first}..{last} has {len(payload)} bytes, not {size}")
        block = sealed(self._key, kind, (first, last), payload, at)
        self._blocks.append(block)
        if sum(b.ref.size for b in self._blocks) > 4 * MAX_VALUE:
            self.flush()
        return block.ref

    def flush(self) -> None:
        self._vault.admit(self._tenant, sum(block.ref.size for block in self._blocks))
        self._vault.store.put(self._tenant, self._blocks)
        self._blocks = []


# --- frames -----------------------------------------------------------------------------------------------------------


class _Frames:
    def __init__(self, master: MasterKey, salt: bytes) -> None:
        self._cipher = AESGCM(derived(master.raw + salt, "shiori reading archive 2026"))
        self._number = 0

    def sealed(self, payload: bytes | memoryview) -> bytes:
        number = self._next()
        body = self._cipher.encrypt(number, bytes(payload), number)
        return struct.pack("<I", len(body)) + body

    def opened(self, source: _Source, limit: int) -> bytes:
        (length,) = struct.unpack("<I", source.take(4))
        if not 16 <= length <= limit + 16:
            raise Refused("the file is damaged or was changed: a frame has an impossible length")
        number = self._next()
        try:
            return self._cipher.decrypt(number, source.take(length), number)
        except InvalidTag:
            raise Refused("the file is damaged or was changed; nothing of it was taken over") from None

    def _next(self) -> bytes:
        self._number += 1
        return self._number.to_bytes(12, "little")


def _opening(vault: Vault, header: bytes) -> _Frames:
    if not header.startswith(_MAGIC):
        raise Refused("this is not an exported reading")
    wanted, salt = header[len(_MAGIC) : len(_MAGIC) + 4], header[len(_MAGIC) + 4 :]
    master = vault.keys.master(lambda key: key.id == wanted)
    if master is None:
        raise Refused(f"it was made with master key {wanted.hex()}; put that key into this engine's key file")
    return _Frames(master, salt)


class _Source:
    """Bytes from chunks of any size."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._room = iter(chunks), bytearray()

    def take(self, count: int) -> bytes:
        while len(self._room) < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise Refused("the file ends early")
            self._room += chunk
        taken = bytes(self._room[:count])
        del self._room[:count]
        return taken

    def ended(self) -> bool:
        return not self._room and not any(len(chunk) for chunk in self._chunks)
