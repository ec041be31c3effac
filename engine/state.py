"""State out: copies of a sequence's state, given out only when every row says of itself what its sequence says."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.pools import Pools
from engine.provenance import BLANK, ProvenanceError, Tag, require
from engine.sequences import Sequence


@dataclass(frozen=True)
class Snapshot:
    """A sequence's state of fixed size; with the latents of positions 0..position it is the whole reading."""

    position: int
    digest: bytes
    tensors: dict[str, Tensor]  # "kda" [Lk,H,K,V] fp32, "conv" [Lk,W-1,3C]


@dataclass(frozen=True)
class Exported:
    """A reading on its way out, and what the rows it was copied from say of themselves. CPU; pinned from a GPU."""

    position: int
    digest: bytes
    tensors: dict[str, Tensor]  # as in Snapshot
    latents: Tensor  # [Lm, position - first, R+r]: positions first..position
    tags: tuple[Tag, ...]  # of the slot, per KDA layer; then of the last page, per MLA layer. From the pools


def export(pools: Pools, s: Sequence, first: int) -> Exported:
    check_pages(pools, s)
    tensors, tags = copy_state(pools, s)
    latents = copy_latents(pools, s, first, s.position)
    last = [rows.tags[s.pages[len(s.book) - 1]] if s.book else BLANK for rows in pools.pages]
    return Exported(s.position, s.digest, tensors, latents, (*tags, *last))


def copy_state(pools: Pools, s: Sequence) -> tuple[dict[str, Tensor], list[Tag]]:
    """The slot's tensors on the CPU and the tag that came with each KDA layer's; ProvenanceError."""
    copy = pools.copy_state(s.slot)
    for rows, tag in zip(pools.states, copy.tags, strict=True):
        require(tag, s.tag, f"{rows.name}, slot {s.slot}")
    host = _to_host(pools, copy.tensors | {"broken": copy.broken})
    for layer in host.pop("broken").nonzero().flatten().tolist():
        raise _forged(f"{pools.states[layer].name}, slot {s.slot}", s.tag)
    return host, copy.tags


def copy_latents(pools: Pools, s: Sequence, start: int, stop: int) -> Tensor:
    """[Lm, stop-start, R+r] of positions start..stop on the CPU; ProvenanceError."""
    if not 0 <= start <= stop <= s.position:
        raise ValueError(f"latents {start}..{stop} of a sequence at position {s.position}")
    copy, first = pools.gather(s.pages, start, stop), start // pools.page_tokens
    for rows, tags in zip(pools.pages, copy.tags, strict=True):
        for i, tag in enumerate(tags, first):
            require(tag, s.book[i], f"{rows.name}, page {s.pages[i]}")
    host = _to_host(pools, {"latents": copy.latents, "broken": copy.broken})
    for layer, i in host["broken"].nonzero().tolist():
        raise _forged(f"{pools.pages[layer].name}, page {s.pages[first + i]}", s.book[first + i])
    return host["latents"]


def check_pages(pools: Pools, s: Sequence) -> None:
    """Raises ProvenanceError unless the book ends where the sequence stands and every page says what the book says."""
    require(s.book[-1] if s.book else BLANK, s.tag, f"the book of sequence {s.id}")
    for rows in pools.pages:
        for page, tag in zip(s.pages, s.book, strict=False):  # a running request holds pages ahead
            rows.require(page, tag)


def _forged(row: str, tag: Tag) -> ProvenanceError:
    return ProvenanceError(f"{row} and its sequence are both at {tag}; the numbers are not those that were tagged so")


def _to_host(pools: Pools, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The CPU's own copies of what are copies on the device: from a GPU into pinned memory, waited for once."""
    if not pools.kda.is_cuda:
        return tensors
    host = {name: torch.empty_like(x, device="cpu", pin_memory=True) for name, x in tensors.items()}
    for name, x in tensors.items():
        host[name].copy_(x, non_blocking=True)
    pools.wait()
    return host
