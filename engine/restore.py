"""State in, piece by piece: a sequence gets its memory, then its latents in any order, then its state and its name."""

from collections.abc import Iterator
from contextlib import contextmanager

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


class Restorer:
    """Puts readings into the pools. On a GPU the copies run on a stream of their own, beside the forwards."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        device = pools.kda.device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def put(self, s: Sequence, first: int, latents: Tensor) -> None:
        """latents [Lm,n,R+r] of positions first..first+n; from pinned memory the call does not wait for the copy."""
        put = _put(s)
        self._check_latents(latents)
        stop = first + latents.shape[1]
        if not 0 <= first <= stop <= len(put):
            raise SnapshotMismatch(f"latents of positions {first}..{stop}; the restore began with {len(put)} tokens")
        with self._beside():
            self._pools.put_latents(s.pages, first, latents)
        put[first:stop] = True

    def finish(self, s: Sequence, snapshot: Snapshot) -> None:
        put = _put(s)
        self.check(snapshot)
        if snapshot.position != len(put):
            raise SnapshotMismatch(f"a snapshot at {snapshot.position}; the restore began with {len(put)} tokens")
        if not bool(put.all()):
            raise SnapshotMismatch(f"the latents of position {int(put.int().argmin())} were never put")
        tag, page_tokens = Tag(snapshot.position, snapshot.digest), self._pools.page_tokens
        with self._beside():
            self._pools.put_slot(s.slot, snapshot.tensors["kda"], snapshot.tensors["conv"], tag)
            self._pools.tag_pages(s.pages, page_tags(0, tag, page_tokens))
        self.wait()
        s.advance(tag, page_tokens)
        s.put = None

    def wait(self) -> None:
        """For all copies: before a sequence is used, and before pages that are being copied to are given back."""
        if self._stream:
            self._stream.synchronize()

    @contextmanager
    def _beside(self) -> Iterator[None]:
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))  # who had these pages before
        with torch.cuda.stream(self._stream):
            yield

    def check(self, snapshot: Snapshot) -> None:
        """Raises SnapshotMismatch unless names, dtypes, shapes, position and digest can be a state of this model."""
        pools, position = self._pools, snapshot.position
        want = {"kda": _spec(pools.kda[:, 0]), "conv": _spec(pools.conv[:, 0])}
        found = {name: _spec(x) for name, x in snapshot.tensors.items()}
        wrong = sorted(name for name in want.keys() | found.keys() if found.get(name) != want.get(name))
        if wrong:
            raise SnapshotMismatch("; ".join(f"{n}: {found.get(n)}, expected {want.get(n)}" for n in wrong))
        if position < 0 or len(snapshot.digest) != 32 or (position == 0) != (snapshot.digest == digest.START):
            raise SnapshotMismatch(f"position {position} and digest {snapshot.digest.hex()} do not belong together")

    def _check_latents(self, latents: Tensor) -> None:
        layers, _, _, width = self._pools.latents.shape
        dtype, shape = _spec(latents)
        if dtype != self._pools.latents.dtype or len(shape) != 3 or (shape[0], shape[2]) != (layers, width):
            raise SnapshotMismatch(
                f"latents: {dtype} {shape}, expected {self._pools.latents.dtype} {layers, 'n', width}"
            )


def _put(s: Sequence) -> Tensor:
    if s.put is None:
        raise ValueError(f"sequence {s.id} is not being restored: begin_restore makes one that is")
    return s.put


def _spec(x: Tensor) -> Spec:
    return x.dtype, tuple(x.shape)
