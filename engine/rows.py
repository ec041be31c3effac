"""One layer's part of the pools: rows of numbers, each with its tag. What a layer's forward sees of the memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.provenance import Tag, page_tags, require


@dataclass(frozen=True)
class StateRows:
    """The states of one KDA layer, a row per slot."""

    name: str  # of the layer, for errors
    kda: Tensor  # [slots, H, K, V] fp32
    conv: Tensor  # [slots, W-1, 3C]
    tags: list[Tag]  # [slots]

    def get(self, slot: int, tag: Tag) -> tuple[Tensor, Tensor]:
        """Views [H,K,V] and [W-1,3C] of a row, which must be at ``tag``."""
        self.require(slot, tag)
        return self.kda[slot], self.conv[slot]

    def put(self, slot: int, kda: Tensor, conv: Tensor, tag: Tag) -> None:
        self.kda[slot], self.conv[slot], self.tags[slot] = kda, conv, tag

    def require(self, slot: int, tag: Tag) -> None:
        require(self.tags[slot], tag, f"{self.name}, slot {slot}")


@dataclass(frozen=True)
class LatentPages:
    """The latents of one MLA layer, page by page. ``table``: the pages of a sequence, in order."""

    name: str
    pages: Tensor  # [P, page_tokens, R+r]
    tags: list[Tag]  # [P]

    def put(self, table: Sequence[int], on_device: Tensor, latent: Tensor, before: Tag, digest: bytes) -> None:
        """Appends latent [n,R+r] to a sequence at ``before``; this leads to ``digest``. on_device is ``table``."""
        size, first = self.pages.shape[1], before.position
        self.require_before(table, before)
        at = torch.arange(first, first + latent.shape[0], device=self.pages.device)
        self.pages[on_device[at // size], at % size] = latent
        self.tag(table, first, Tag(first + latent.shape[0], digest))

    def tag(self, table: Sequence[int], first: int, after: Tag) -> None:
        """Tags the pages that hold positions first..after.position."""
        for i, tag in page_tags(first, after, self.pages.shape[1]):
            self.tags[table[i]] = tag

    def require_before(self, table: Sequence[int], before: Tag) -> None:
        """The page that a sequence at ``before`` goes on in, if it has begun, must say so."""
        if before.position % self.pages.shape[1]:
            self.require(table[before.position // self.pages.shape[1]], before)

    def require(self, page: int, tag: Tag) -> None:
        require(self.tags[page], tag, f"{self.name}, page {page}")
