"""State in, piece by piece: a sequence gets its memory, then its latents in any order, then its state and its name."""

import torch
from torch import Tensor

from engine import digest
from engine.pools import Pools
from engine.provenance import Tag, page_tags
from engine.sequences import Sequence
from engine.state import Snapshot

Spec = tuple[torch.dtype, tuple[int, ...]]


class SnapshotMismatch(ValueError):
    """A snapshot or its latents do not fit this engine's model, or each other. No usable sequence was made of them."""


def put(pools: Pools, s: Sequence, first: int, latents: Tensor) -> None:
    """latents [Lm,n,R+r] of positions first..first+n. Their memory may be used again when this returns."""
    done = _put_so_far(s)
    _check_latents(pools, latents)
    stop = first + latents.shape[1]
    if not 0 <= first <= stop <= len(done):
        raise SnapshotMismatch(f"latents of positions {first}..{stop}; the restore began with {len(done)} tokens")
    pools.put_latents(s.pages, first, latents)
    pools.wait()
    done[first:stop] = True


def finish(pools: Pools, s: Sequence, snapshot: Snapshot) -> None:
    done = _put_so_far(s)
    check(pools, snapshot)
    if snapshot.position != len(done):
        raise SnapshotMismatch(f"a snapshot at {snapshot.position}; the restore began with {len(done)} tokens")
    if not bool(done.all()):
        raise SnapshotMismatch(f"the latents of position {int(done.int().argmin())} were never put")
    tag = Tag(snapshot.position, snapshot.digest)
    pools.put_slot(s.slot, snapshot.tensors["kda"], snapshot.tensors["conv"], tag)
    pools.tag_pages(s.pages, page_tags(0, tag, pools.page_tokens))
    pools.wait()
    s.advance(tag, pools.page_tokens)
    s.put = None


def check(pools: Pools, snapshot: Snapshot) -> None:
    """Raises SnapshotMismatch unless names, dtypes, shapes, position and digest can be a state of this model."""
    position = snapshot.position
    want = {"kda": _spec(pools.kda[:, 0]), "conv": _spec(pools.conv[:, 0])}
    found = {name: _spec(x) for name, x in snapshot.tensors.items()}
    wrong = sorted(name for name in want.keys() | found.keys() if found.get(name) != want.get(name))
    if wrong:
        raise SnapshotMismatch("; ".join(f"{n}: {found.get(n)}, expected {want.get(n)}" for n in wrong))
    if position < 0 or len(snapshot.digest) != 32 or (position == 0) != (snapshot.digest == digest.START):
        raise SnapshotMismatch(f"position {position} and digest {snapshot.digest.hex()} do not belong together")


def _check_latents(pools: Pools, latents: Tensor) -> None:
    layers, _, _, width = pools.latents.shape
    dtype, shape = _spec(latents)
    if dtype != pools.latents.dtype or len(shape) != 3 or (shape[0], shape[2]) != (layers, width):
        raise SnapshotMismatch(f"latents: {dtype} {shape}, expected {pools.latents.dtype} {layers, 'n', width}")


def _put_so_far(s: Sequence) -> Tensor:
    if s.put is None:
        raise ValueError(f"sequence {s.id} is not being restored: begin_restore makes one that is")
    return s.put


def _spec(x: Tensor) -> Spec:
    return x.dtype, tuple(x.shape)
