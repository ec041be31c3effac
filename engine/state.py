"""State out: copies of a sequence's state, given out only when every row says of itself what its sequence says."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.pools import Pools
from engine.provenance import BLANK, ProvenanceError, Tag
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
    tags: tuple[Tag, ...]  # of the slot, per KDA layer; then of the last page, per MLA layer. Read from the pools


def export(pools: Pools, s: Sequence, first: int) -> Exported:
    check_range(s, first, s.position)
    require_provenance(pools, s)
    copies = _to_host(_state(pools, s) | _latents(pools, s, first, s.position))
    _require_seals(pools, s, copies)
    tensors = {"kda": copies["kda"], "conv": copies["conv"]}
    return Exported(s.position, s.digest, tensors, copies["latents"], _tags(pools, s))


def snapshot(pools: Pools, s: Sequence) -> Snapshot:
    require_provenance(pools, s)
    copies = _to_host(_state(pools, s))
    _require_seals(pools, s, copies)
    return Snapshot(s.position, s.digest, {"kda": copies["kda"], "conv": copies["conv"]})


def latents(pools: Pools, s: Sequence, start: int, stop: int) -> Tensor:
    """[Lm, stop-start, R+r] of positions start..stop, a copy on the CPU."""
    check_range(s, start, stop)
    require_provenance(pools, s)
    copies = _to_host(_latents(pools, s, start, stop))
    _require_seals(pools, s, copies)
    return copies["latents"]


def check_range(s: Sequence, start: int, stop: int) -> None:
    if not 0 <= start <= stop <= s.position:
        raise ValueError(f"latents {start}..{stop} of a sequence at position {s.position}")


def require_provenance(pools: Pools, s: Sequence) -> None:
    """Raises ProvenanceError unless all tags agree: of the slot in every KDA layer, of all pages in every MLA layer."""
    for states in pools.states:
        states.require(s.slot, s.tag)
    if (s.book[-1] if s.book else BLANK) != s.tag:
        raise ProvenanceError(f"the book of sequence {s.id} ends at {s.book[-1:]}, the sequence is at {s.tag}")
    for pages in pools.pages:
        for page, tag in zip(s.pages, s.book, strict=False):  # a running read holds pages ahead
            pages.require(page, tag)


def _tags(pools: Pools, s: Sequence) -> tuple[Tag, ...]:
    slots = [states.tags[s.slot] for states in pools.states]
    last = [pages.tags[s.pages[len(s.book) - 1]] if s.book else BLANK for pages in pools.pages]
    return tuple(slots + last)


def _state(pools: Pools, s: Sequence) -> dict[str, Tensor]:
    copies, broken = pools.copy_state(s.slot)
    return copies | {"broken states": broken}


def _latents(pools: Pools, s: Sequence, start: int, stop: int) -> dict[str, Tensor]:
    copy, broken = pools.gather(s.pages, start, stop)
    return {"latents": copy, "broken latents": broken.any(-1)}


def _require_seals(pools: Pools, s: Sequence, copies: dict[str, Tensor]) -> None:
    """What was copied is what was written; the seals were compared on the device."""
    for name, rows in (("states", pools.states), ("latents", pools.pages)):
        for layer in copies.get(f"broken {name}", torch.zeros(0)).nonzero().flatten().tolist():
            where = f"{rows[layer].name}, {name} of sequence {s.id} (slot {s.slot}, pages {s.pages[: len(s.book)]})"
            raise ProvenanceError(f"{where}: tag and sequence say {s.tag}, the numbers are not those written then")


def _to_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU of what already are copies: from a GPU into pinned memory, waited for once."""
    found = next(iter(tensors.values()))
    if found.device.type == "cpu":
        return tensors
    host = {name: torch.empty_like(x, device="cpu", pin_memory=True) for name, x in tensors.items()}
    for name, x in tensors.items():
        host[name].copy_(x, non_blocking=True)
    torch.cuda.current_stream(found.device).synchronize()
    return host
