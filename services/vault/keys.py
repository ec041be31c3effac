"""Who can read what: a data key per tenant, wrapped by the operator's master key.

The master key comes from SHIORI_VAULT_KEY (64 hex digits) or from a file (one key a line, the newest first). It wraps
the tenants' data keys and nothing else, so rotating it means wrapping those again: put the new key on the first line
and start the engine. A tenant's names, digests and nonces are keyed by keys derived from its data key: without it
nobody can tell whether the tenant has read a given text. Destroying the data key destroys everything the tenant has
stored.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_MAGIC = b"SHK1"


class KeyProblem(Exception):
    """A key is missing or does not fit. Says which, by its id; never the key."""


@dataclass(frozen=True)
class MasterKey:
    id: bytes  # 4 bytes, from the key's hash
    raw: bytes = field(repr=False)

    @staticmethod
    def of(raw: bytes) -> MasterKey:
        return MasterKey(derived(raw, "shiori vault master key id 2026")[:4], raw)


def derived(key: bytes, purpose: str) -> bytes:
    return blake3.blake3(key, derive_key_context=purpose).digest()


def master_keys(text: str, path: Path | None) -> list[MasterKey]:
    """From the environment's text, else from the file, which is made when it is not there. The newest first."""
    if not text and path is not None:
        text = _file(path)
    keys = [_parsed(line) for line in text.split() if line]
    if not keys:
        raise KeyProblem("no master key: set SHIORI_VAULT_KEY (64 hex digits) or SHIORI_VAULT_KEY_FILE")
    return keys


def _file(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text()
    with os.fdopen(file, "w") as out:
        out.write(secrets.token_hex(32) + "\n")
        out.flush()
        os.fsync(out.fileno())
    return path.read_text()


def _parsed(line: str) -> MasterKey:
    try:
        raw = bytes.fromhex(line)
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise KeyProblem("a master key is 64 hex digits (32 bytes); one that was given is not")
    return MasterKey.of(raw)


class TenantKey:
    """The keys of one tenant, all derived from its data key."""

    def __init__(self, raw: bytes) -> None:
        self.cipher = AESGCM(derived(raw, "shiori vault blocks 2026"))
        self._names = derived(raw, "shiori vault names 2026")
        self._digests = derived(raw, "shiori vault digests 2026")
        self._nonces = derived(raw, "shiori vault nonces 2026")

    def digest(self, data: bytes | bytearray | memoryview) -> bytes:
        """Of a payload, 32 bytes."""
        return blake3.blake3(data, key=self._digests).digest()

    def name(self, *parts: str | int | bytes) -> str:
        """40 hex digits that only this tenant's key gives. Parts are framed, so that no two lists collide."""
        hasher = blake3.blake3(key=self._names)
        for part in parts:
            raw = part if isinstance(part, bytes) else str(part).encode()
            hasher.update(len(raw).to_bytes(8, "little") + raw)
        return hasher.hexdigest(20)

    def nonce(self, name: str) -> bytes:
        """A function of the name, which names the content: the same block sealed twice is the same bytes."""
        return blake3.blake3(name.encode(), key=self._nonces).digest(12)

    def seal_text(self, text: str, about: str) -> str:
        """Hex; bound to `about`, which stands beside it in the clear."""
        nonce = blake3.blake3(f"{about}\0{text}".encode(), key=self._nonces).digest(12)
        return (nonce + self.cipher.encrypt(nonce, text.encode(), about.encode())).hex()

    def open_text(self, sealed: str, about: str) -> str | None:
        """None when it is not what was sealed."""
        try:
            raw = bytes.fromhex(sealed)
            return self.cipher.decrypt(raw[:12], raw[12:], about.encode()).decode()
        except (ValueError, InvalidTag):
            return None


class KeyStore(Protocol):
    """Where wrapped data keys are kept."""

    def copies(self, tenant: str) -> list[bytes]:
        """All that are kept, the nearest first."""
        ...

    def put(self, tenant: str, wrapped: bytes, replace: bool = False) -> bytes:
        """What is kept now: `wrapped`, or what was there first."""
        ...


class Keys:
    """The tenants' keys, unwrapped when first asked for."""

    def __init__(self, masters: list[MasterKey], store: KeyStore) -> None:
        self._masters, self._store = masters, store
        self._known: dict[str, TenantKey] = {}

    @property
    def newest(self) -> MasterKey:
        return self._masters[0]

    @property
    def rotating(self) -> bool:
        """There are older master keys, which some tenant's key may still be wrapped by."""
        return len(self._masters) > 1

    def of(self, tenant: str) -> TenantKey:
        if tenant not in self._known:
            raw = self._kept(tenant)
            if raw is None:
                wrapped = self._store.put(tenant, self._wrap(tenant, secrets.token_bytes(32)))
                raw = self._unwrap(tenant, wrapped)
            self._known[tenant] = TenantKey(raw)
        return self._known[tenant]

    def _kept(self, tenant: str) -> bytes | None:
        """From the first copy that opens; where that is not the first of all, the others are written again."""
        problem: KeyProblem | None = None
        for wrapped in self._store.copies(tenant):
            try:
                raw = self._unwrap(tenant, wrapped)
            except KeyProblem as found:
                problem = problem or found
                continue
            if problem:
                self._store.put(tenant, wrapped, replace=True)
            return raw
        if problem:
            raise problem
        return None

    def id_of(self, tenant: str) -> str:
        """The id of the master key that wraps the tenant's."""
        return next((wrapped[4:8].hex() for wrapped in self._store.copies(tenant)), "")

    def rewrap(self, tenant: str) -> bool:
        """With the newest master key. False: it was already."""
        copies = self._store.copies(tenant)
        if all(wrapped[4:8] == self.newest.id for wrapped in copies):
            return False
        raw = self._kept(tenant)
        assert raw is not None, "there is a copy"
        self._store.put(tenant, self._wrap(tenant, raw), replace=True)
        return True

    def master(self, wanted: Callable[[MasterKey], bool]) -> MasterKey | None:
        return next((key for key in self._masters if wanted(key)), None)

    def _wrap(self, tenant: str, raw: bytes) -> bytes:
        nonce = secrets.token_bytes(12)
        sealed = AESGCM(self.newest.raw).encrypt(nonce, raw, tenant.encode())
        return _MAGIC + self.newest.id + nonce + sealed

    def _unwrap(self, tenant: str, wrapped: bytes) -> bytes:
        master = self.master(lambda key: key.id == wrapped[4:8])
        if wrapped[:4] != _MAGIC or master is None:
            raise KeyProblem(
                f"the key of tenant {tenant!r} is wrapped by master key {wrapped[4:8].hex()}; "
                f"this engine has {', '.join(key.id.hex() for key in self._masters)}"
            )
        try:
            return AESGCM(master.raw).decrypt(wrapped[8:20], wrapped[20:], tenant.encode())
        except InvalidTag:
            raise KeyProblem(f"the wrapped key of tenant {tenant!r} is damaged") from None
