"""Places in a reading, and how they lie in Redis: hashes whose scripts compare manifest and position in the clear,
everything else sealed under the tenant's key.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from services import errors
from services.vault.keys import Keys
from services.vault.manifest import NOTHING, Manifest
from services.vault.sealing import Damaged

_ABOUT = "view"


@dataclass(frozen=True)
class View:
    """A place in a reading. `manifest` is "" before anything was read."""

    manifest: str = ""
    position: int = 0
    digest: str = NOTHING
    fingerprint: str = ""
    segments: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Head:
    session: str
    epoch: int
    view: View = View()
    parent: str = ""  # the manifest before this one
    draft: str = ""  # manifest of the segment that is being read, as far as it is saved
    created_ms: int = 0
    used_ms: int = 0
    origin: str = ""  # the session this one was forked from
    cold: bool = False  # its blocks are in the cold tier only

    @property
    def position(self) -> int:
        return self.view.position

    @property
    def digest(self) -> str:
        return self.view.digest


@dataclass(frozen=True)
class Mark:
    name: str
    view: View
    created_ms: int
    pinned: bool = False


@dataclass(frozen=True)
class Past:
    """A view that a rewind left; kept until `until_ms`."""

    id: str
    view: View
    until_ms: int
    reason: str


class Views:
    """Views and heads to and from the fields of their hashes."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def plain(self, tenant: str, view: View) -> dict[str, str]:
        """Scripts compare manifest and position; all but the manifest's id is sealed as well, digest only there."""
        inner = [view.position, view.digest, view.fingerprint, view.segments, view.bytes]
        sealed = self._keys.of(tenant).seal_text(json.dumps(inner), _ABOUT)
        return {"manifest": view.manifest, "position": str(view.position), "view": sealed}

    def view(self, tenant: str, session: str, fields: dict[str, str]) -> View:
        """Raises Damaged."""
        plain = self._keys.of(tenant).open_text(fields.get("view", ""), _ABOUT)
        if plain is None:
            raise Damaged(session, "its head or a bookmark is damaged", "head")
        position, digest, fingerprint, segments, size = json.loads(plain)
        return View(fields.get("manifest", ""), position, digest, fingerprint, segments, size)

    def head(self, tenant: str, session: str, flat: Any) -> Head:
        """Raises NotFound when there are no fields, Damaged."""
        fields = raw_fields(flat)
        if not fields:
            raise errors.NotFound(f"no session {session!r}", session=session)
        return Head(
            session=session,
            epoch=number(fields, "epoch"),
            view=self.view(tenant, session, fields),
            parent=fields.get("parent", ""),
            draft=fields.get("draft", ""),
            created_ms=number(fields, "created_ms"),
            used_ms=number(fields, "used_ms"),
            origin=fields.get("origin", ""),
            cold=fields.get("cold") == "1",
        )


def view_of(name: str, manifest: Manifest) -> View:
    """Where a manifest ends; `name` is its own, or that of one it was cut from."""
    return View(
        manifest=name,
        position=manifest.position,
        digest=manifest.digest,
        fingerprint=manifest.fingerprint,
        segments=len(manifest.segments),
        bytes=manifest.stored_bytes,
    )


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def raw_fields(flat: Any) -> dict[str, str]:
    """Of a hash as Redis answers it, a dict or names and values in turn; what is no UTF-8 stays recognisably wrong."""
    pairs = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, value in pairs}


def number(fields: dict[str, str], name: str) -> int:
    """0 when it is missing or damaged."""
    value = fields.get(name) or "0"
    return int(value) if value.isascii() and value.isdigit() else 0


def flat(fields: dict[str, str]) -> list[str]:
    return [item for pair in fields.items() for item in pair]
