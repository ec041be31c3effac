"""State out: copies of a sequence's state, given out only when every row says of itself what its sequence says."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.pools import LatentCopy, Pools, StateCopy
from engine.provenance import BLANK, ProvenanceError, Tag, require
from engine.sequences import Sequence

_STAGING = 32 * 1024 * 1024  # bytes of pinned memory that a copy from the device goes through


@dataclass(frozen=True)
class Snapshot:
    """A sequence's state of fixed size; with the latents of positions 0..position it is the whole reading."""

    position: int
    digest: bytes
    tensors: dict[str, Tensor]  # "kda" [Lk,H,K,V] fp32, "conv" [Lk,W-1,3C]


@dataclass(frozen=True)
class Exported:
    """A reading on its way out, on the CPU, and what the rows it was copied from say of themselves."""

    position: int
    digest: bytes
    tensors: dict[str, Tensor]  # as in Snapshot
    latents: Tensor  # [Lm, position - first, R+r]: positions first..position
    tags: tuple[Tag, ...]  # of the slot, per KDA layer; then of the last page, per MLA layer. From the pools


@dataclass(frozen=True)
class Copied:
    """A reading on its way out, its numbers copied but still on the device: the engine may go on.

    ``to_host`` may be called from any thread. On a GPU it runs beside the engine's work, on a stream of its own.
    """

    position: int
    digest: bytes
    tensors: dict[str, Tensor]
    latents: Tensor
    tags: tuple[Tag, ...]
    forged: dict[str, Tensor]  # "states" [Lk], "pages" [Lm, n]: where the numbers are not those that were tagged so
    names: dict[str, list[list[str]]]  # of these rows: [layer][page]
    ready: torch.cuda.Event | None

    def to_host(self) -> Exported:
        """Raises ProvenanceError."""
        device = {"latents": self.latents} | self.tensors | self.forged
        host = _on_host(device, self.ready)
        for name in self.forged:
            if rows := host.pop(name).nonzero().tolist():
                layer, *page = rows[0]
                raise _forged(self.names[name][layer][page[0] if page else 0], Tag(self.position, self.digest))
        latents = host.pop("latents")
        return Exported(self.position, self.digest, host, latents, self.tags)


def copy_out(pools: Pools, s: Sequence, first: int) -> Copied:
    """What the tags say is checked at once; ProvenanceError."""
    check_pages(pools, s)
    state, pages = _tagged_state(pools, s), _tagged_latents(pools, s, first, s.position)
    last = [rows.tags[s.pages[len(s.book) - 1]] if s.book else BLANK for rows in pools.pages]
    forged = {"states": state.broken, "pages": pages.broken}
    behind = s.pages[first // pools.page_tokens :]
    names = {
        "states": [[f"{rows.name}, slot {s.slot}"] for rows in pools.states],
        "pages": [[f"{rows.name}, page {page}" for page in behind] for rows in pools.pages],
    }
    tags, ready = (*state.tags, *last), _copied(pools)
    return Copied(s.position, s.digest, dict(state.tensors), pages.latents, tags, forged, names, ready)


def copy_state(pools: Pools, s: Sequence) -> dict[str, Tensor]:
    """The slot's tensors on the CPU; ProvenanceError."""
    copy = _tagged_state(pools, s)
    host = _on_host(copy.tensors | {"broken": copy.broken}, _copied(pools))
    for layer in host.pop("broken").nonzero().flatten().tolist():
        raise _forged(f"{pools.states[layer].name}, slot {s.slot}", s.tag)
    return host


def copy_latents(pools: Pools, s: Sequence, start: int, stop: int) -> Tensor:
    """[Lm, stop-start, R+r] of positions start..stop on the CPU; ProvenanceError."""
    copy, first = _tagged_latents(pools, s, start, stop), start // pools.page_tokens
    host = _on_host({"latents": copy.latents, "broken": copy.broken}, _copied(pools))
    for layer, i in host["broken"].nonzero().tolist():
        raise _forged(f"{pools.pages[layer].name}, page {s.pages[first + i]}", s.book[first + i])
    return host["latents"]


def _tagged_state(pools: Pools, s: Sequence) -> StateCopy:
    copy = pools.copy_state(s.slot)
    for rows, tag in zip(pools.states, copy.tags, strict=True):
        require(tag, s.tag, f"{rows.name}, slot {s.slot}")
    return copy


def _tagged_latents(pools: Pools, s: Sequence, start: int, stop: int) -> LatentCopy:
    if not 0 <= start <= stop <= s.position:
        raise ValueError(f"latents {start}..{stop} of a sequence at position {s.position}")
    copy, first = pools.gather(s.pages, start, stop), start // pools.page_tokens
    for rows, tags in zip(pools.pages, copy.tags, strict=True):
        for i, tag in enumerate(tags, first):
            require(tag, s.book[i], f"{rows.name}, page {s.pages[i]}")
    return copy


def check_pages(pools: Pools, s: Sequence) -> None:
    """Raises ProvenanceError unless the book ends where the sequence stands and every page says what the book says."""
    require(s.book[-1] if s.book else BLANK, s.tag, f"the book of sequence {s.id}")
    for rows in pools.pages:
        for page, tag in zip(s.pages, s.book, strict=False):  # a running request holds pages ahead
            rows.require(page, tag)


def _forged(row: str, tag: Tag) -> ProvenanceError:
    return ProvenanceError(f"{row} and its sequence are both at {tag}; the numbers are not those that were tagged so")


def _copied(pools: Pools) -> torch.cuda.Event | None:
    """Comes when the copies that were just made on the device are there; None on a CPU, where they are."""
    return torch.cuda.current_stream(pools.kda.device).record_event() if pools.kda.is_cuda else None


def _on_host(tensors: dict[str, Tensor], ready: torch.cuda.Event | None) -> dict[str, Tensor]:
    """The CPU's own copies of what are copies on the device: from a GPU by a stream of this call's own, through one
    small pinned buffer: locking as much memory as a reading has would stop the engine longer than copying it.
    """
    if ready is None:
        return tensors
    stream = torch.cuda.Stream(next(iter(tensors.values())).device)
    staging = torch.empty(_STAGING, dtype=torch.uint8, device="cpu", pin_memory=True)
    with torch.cuda.stream(stream):
        stream.wait_event(ready)
        return {name: _through(staging, x, stream) for name, x in tensors.items()}


def _through(staging: Tensor, source: Tensor, stream: torch.cuda.Stream) -> Tensor:
    host = torch.empty(source.shape, dtype=source.dtype, device="cpu")
    if not source.numel():
        return host
    flat, room = source.contiguous().flatten().view(torch.uint8), staging.numpy()
    out = host.view(-1).view(torch.uint8).numpy()
    for start in range(0, flat.numel(), _STAGING):
        piece = flat[start : start + _STAGING]
        staging[: piece.numel()].copy_(piece, non_blocking=True)
        stream.synchronize()
        out[start : start + piece.numel()] = room[: piece.numel()]
    return host
