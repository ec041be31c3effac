"""The vault: readings in Redis.

Writing is always blocks, then manifest, then head (heads.py has the argument why a kill at any point is harmless).
Reading checks every block before it hands over a tensor; what is missing or damaged is named in `Damaged`, never used.

Reclaiming: a block may be named by many manifests (forks, bookmarks, equal texts), so nothing counts references.
`sweep` marks everything that any head, its parent or any bookmark of the tenant names and unlinks the rest. Two
counters make that safe beside writers, both checked inside scripts: the unlink happens only if no head moved since the
marking (`commits`), and a commit is refused if something was unlinked since its blocks were written (`sweeps`); it then
writes them again. Left to itself a session holds its head, its parent (the rung to fall back to) and its bookmarks.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import redis
import structlog
import torch

from services import errors
from services.inference import blocks as b
from services.inference.heads import Head, Heads, block_key, counters_key, manifest_key

log = structlog.get_logger(__name__)

_TRIES = 8

# KEYS: counters, then what to unlink. ARGV: the commits counted when the marking began. -> freed bytes, or -1
_UNLINK = """
if (redis.call('HGET', KEYS[1], 'commits') or '0') ~= ARGV[1] then return -1 end
local freed = 0
for i = 2, #KEYS do
  freed = freed + redis.call('STRLEN', KEYS[i])
  redis.call('UNLINK', KEYS[i])
end
redis.call('HINCRBY', KEYS[1], 'sweeps', 1)
return freed
"""


@dataclass(frozen=True)
class State:
    """What an engine needs to stand where a manifest stands."""

    position: int
    digest: str
    tensors: dict[str, torch.Tensor]
    latents: torch.Tensor


@dataclass(frozen=True)
class Draft:
    """A reading that is not stored yet: `base`, and what was read on top of it."""

    base: b.Manifest
    segments: list[tuple[str, list[int]]]  # label, token ids
    state: State  # latents only from the last full page of `base` on


class Vault:
    def __init__(self, client: redis.Redis) -> None:
        self._redis: Any = client
        self._unlink = client.register_script(_UNLINK)
        self.heads = Heads(client)

    # --- out ----------------------------------------------------------------------------------------------------------

    def commit(self, tenant: str, head: Head, draft: Draft, bookmark: str = "") -> tuple[Head, b.Manifest]:
        """Stores the draft and moves the head to it; both or neither."""
        for attempt in range(_TRIES):
            sweeps = self._counter(tenant, "sweeps")
            if attempt:
                self._check_there(tenant, draft.base)
            manifest = self._write_draft(tenant, draft)
            new = _moved(head, self._write_manifest(tenant, manifest), manifest)
            if self.heads.commit(tenant, head, new, sweeps, bookmark) == "OK":
                return new, manifest
        raise errors.Unavailable("the vault is being swept too often; try again", retry_after=1)

    def repair(self, tenant: str, manifest: b.Manifest, state: State) -> bool:
        """Writes the manifest's blocks again from a state that was computed again. False if a bit differs.

        Under their own names: whoever shares a page (forks, bookmarks) is whole again too, and no head has to move.
        """
        names = b.Names(tenant)
        snapshot = b.snapshot_blocks(names, manifest.fingerprint, state.position, state.digest, state.tensors)
        pages = [b.page_block(ref.name, (ref.first, ref.last), state.latents) for ref in manifest.pages]
        if tuple(block.ref for block in [*pages, *snapshot]) != manifest.pages + manifest.snapshot:
            return False
        stored = self._write(tenant, [*pages, *snapshot])
        return stored(pages) + stored(snapshot) == manifest.pages + manifest.snapshot

    def last_whole(self, tenant: str, session: str) -> str:
        """The furthest bookmark whose state is whole; "" when none is."""
        for mark in reversed(self.heads.marks(tenant, session)):
            try:
                self.state(tenant, self.manifest(tenant, mark.head.manifest))
                return mark.name
            except b.Damaged as damaged:
                log.warning("rung_damaged", position=mark.head.position, why=str(damaged))
        return ""

    def _check_there(self, tenant: str, base: b.Manifest) -> None:
        """A sweep cannot have taken what the head names; it can, if the base is a bookmark that was deleted since."""
        keys = {block_key(tenant, ref.name) for ref in base.refs()}
        if keys and self._redis.exists(*keys) < len(keys):
            raise errors.HeadMoved("the reading this one stands on was deleted meanwhile")

    def _write_draft(self, tenant: str, draft: Draft) -> b.Manifest:
        names, base, state = b.Names(tenant), draft.base, draft.state
        kept = base.full_pages()
        logs = [(label, b.log_blocks(names, ids), len(ids)) for label, ids in draft.segments]
        pages = b.page_blocks(names, base, state.digest, state.latents)
        snapshot = b.snapshot_blocks(names, base.fingerprint, state.position, state.digest, state.tensors)
        stored = self._write(tenant, [*(block for _, group, _ in logs for block in group), *pages, *snapshot])
        manifest = replace(
            base,
            position=state.position,
            digest=state.digest,
            segments=base.segments + tuple(b.Segment(n, label, stored(group)) for label, group, n in logs),
            pages=kept + stored(pages),
            snapshot=stored(snapshot),
        )
        manifest.check()
        return manifest

    def _write(self, tenant: str, blocks: list[b.Block]) -> Any:
        """Writes what is not there yet. Returns a function from blocks to the refs they ended up under."""
        renamed: dict[str, b.Ref] = {}
        for batch in b.batches((block, len(block.data)) for block in blocks):
            pipe = self._redis.pipeline(transaction=False)
            for block in batch:
                pipe.set(block_key(tenant, block.ref.name), block.data, nx=True)
            for block, new in zip(batch, pipe.execute(), strict=True):
                if not new and (ref := self._settle(tenant, block)) != block.ref:
                    renamed[block.ref.name] = ref
        if renamed:
            log.error("blocks_differ", count=len(renamed), first=next(iter(renamed)))
        return lambda group: tuple(renamed.get(block.ref.name, block.ref) for block in group)

    def _settle(self, tenant: str, block: b.Block) -> b.Ref:
        """The name is taken. The same name must mean the same bytes; where it does not, ours gets a name of its own."""
        key = block_key(tenant, block.ref.name)
        there = self._redis.get(key)
        if there == block.data:
            return block.ref
        if there is None:  # swept since
            self._redis.set(key, block.data)
            return block.ref
        private = replace(block.ref, name=f"{block.ref.name}.{secrets.token_hex(4)}")
        self._redis.set(block_key(tenant, private.name), block.data)
        return private

    def _write_manifest(self, tenant: str, manifest: b.Manifest) -> str:
        data = manifest.to_bytes()
        name = b.Names(tenant).name("manifest", data)
        self._redis.set(manifest_key(tenant, name), data)
        return name

    # --- in -----------------------------------------------------------------------------------------------------------

    def manifest(self, tenant: str, name: str) -> b.Manifest:
        data = self._redis.get(manifest_key(tenant, name))
        if data is None or b.Names(tenant).name("manifest", data) != name:
            raise b.Damaged(name, "the manifest is missing" if data is None else "the manifest is damaged")
        manifest = b.Manifest.from_bytes(data)
        manifest.check()
        return manifest

    def state(self, tenant: str, manifest: b.Manifest) -> State:
        """Everything an engine needs, each block checked; or Damaged, and the damaged blocks are out of the way."""
        payloads = self._payloads(tenant, [*manifest.pages, *manifest.snapshot])
        latents = b.latents_of(payloads[: len(manifest.pages)], manifest.position)
        tensors = b.tensors_of(payloads[len(manifest.pages) :], manifest.position, manifest.digest)
        return State(manifest.position, manifest.digest, tensors, latents)

    def log(self, tenant: str, manifest: b.Manifest, since: int = 0) -> list[tuple[str, list[int]]]:
        """Label and token ids of the segments from number `since` on."""
        segments = manifest.segments[since:]
        refs = [ref for segment in segments for ref in segment.blocks]
        payloads = iter(self._payloads(tenant, refs))
        return [(s.label, [i for ref in s.blocks for i in b.ids_of(next(payloads), ref)]) for s in segments]

    def _payloads(self, tenant: str, refs: list[b.Ref]) -> list[memoryview]:
        good, bad = [], []
        for batch in b.batches((ref, ref.size) for ref in refs):
            values = self._redis.mget([block_key(tenant, ref.name) for ref in batch])
            for ref, data in zip(batch, values, strict=True):
                try:
                    good.append(b.checked(ref, data))
                except b.Damaged as damaged:
                    bad.append(damaged)
        if bad:
            # A damaged block must not stand in the way of its repair: names are written once.
            self._redis.unlink(*(block_key(tenant, damaged.key) for damaged in bad))
            log.error("blocks_damaged", count=len(bad), first=str(bad[0]))
            raise bad[0]
        return good

    def rungs(self, tenant: str, head: Head) -> list[tuple[str, b.Manifest]]:
        """Earlier readings of this session (its parent, its bookmarks, its origin's), the furthest first."""
        names: dict[str, None] = {head.parent: None} if head.parent else {}
        session, depth = head.session, 0
        while session and depth < 8:
            names.update({mark.head.manifest: None for mark in self.heads.marks(tenant, session)})
            session, depth = self._origin(tenant, session), depth + 1
        found = []
        for name in names:
            try:
                found.append((name, self.manifest(tenant, name)))
            except b.Damaged as damaged:
                log.warning("rung_damaged", why=str(damaged))
        return sorted(found, key=lambda pair: pair[1].position, reverse=True)

    def _origin(self, tenant: str, session: str) -> str:
        try:
            return self.heads.get(tenant, session).origin
        except errors.NotFound:
            return ""

    # --- away ---------------------------------------------------------------------------------------------------------

    def delete(self, tenant: str, session: str) -> int:
        """The session's heads at once, then the blocks that nobody else names. Returns the bytes freed."""
        names = self._named(tenant, session)
        self.heads.delete(tenant, session)
        return self._sweep(tenant, lambda: self._reach(tenant, names))

    def sweep(self, tenant: str) -> int:
        """All that no head and no bookmark reaches: superseded readings, and writes that a kill broke off."""
        # Tenants are [A-Za-z0-9_.-]: nothing in them is special to MATCH.
        patterns = (manifest_key(tenant, "*"), block_key(tenant, "*"))
        return self._sweep(tenant, lambda: {key for p in patterns for key in self._redis.scan_iter(p, count=1000)})

    def tenants(self) -> list[str]:
        keys = self._redis.scan_iter("shiori:{*}:counters", count=1000)
        return [key.decode().split("{")[1].split("}")[0] for key in keys]

    def commits(self, tenant: str) -> str:
        return self._counter(tenant, "commits")

    def _sweep(self, tenant: str, candidates: Any) -> int:
        for _ in range(_TRIES):
            commits = self._counter(tenant, "commits")
            unused = candidates() - self._reachable(tenant)
            freed = self._unlink(keys=[counters_key(tenant), *unused], args=[commits]) if unused else 0
            if freed >= 0:
                return freed
        return 0  # too much is going on; the next sweep takes it

    def _reachable(self, tenant: str) -> set[bytes]:
        names: set[str] = set()
        after = ""
        while sessions := self.heads.sessions(tenant, 1000, after):
            after = sessions[-1]
            for session in sessions:
                names |= self._named(tenant, session)
        return self._reach(tenant, names)

    def _named(self, tenant: str, session: str) -> set[str]:
        try:
            head = self.heads.get(tenant, session)
        except errors.NotFound:
            return set()
        return {head.manifest, head.parent, *(m.head.manifest for m in self.heads.marks(tenant, session))} - {""}

    def _reach(self, tenant: str, manifests: Iterable[str]) -> set[bytes]:
        keys: set[bytes] = set()
        for name in manifests:
            keys.add(manifest_key(tenant, name).encode())
            try:
                refs = self.manifest(tenant, name).refs()
            except b.Damaged:
                continue  # nobody can use it any more; its blocks go unless another manifest names them
            keys |= {block_key(tenant, ref.name).encode() for ref in refs}
        return keys

    def _counter(self, tenant: str, name: str) -> str:
        value = self._redis.hget(counters_key(tenant), name)
        return value.decode() if value else "0"


def _moved(head: Head, name: str, manifest: b.Manifest) -> Head:
    return replace(
        head,
        manifest=name,
        parent=head.manifest,
        position=manifest.position,
        digest=manifest.digest,
        fingerprint=manifest.fingerprint,
        segments=len(manifest.segments),
        bytes=manifest.stored_bytes,
    )
