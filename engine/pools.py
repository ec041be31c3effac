"""The memory itself: latent pages, recurrent states and convolution tails of all live sequences, with tags and seals.

Numbers, tag and seal of a row move together, and only here and in rows.py.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from engine.config import EngineConfig, ModelConfig
from engine.provenance import BLANK, Tag, page_tags
from engine.rows import LatentPages, StateRows
from engine.seals import Seals


class StateCopy(NamedTuple):
    """A slot, out of the pools with its tags: copies on the device."""

    tensors: dict[str, Tensor]  # "kda" [Lk,H,K,V] fp32, "conv" [Lk,W-1,3C]
    tags: list[Tag]  # [Lk]
    broken: Tensor  # [Lk] bool, on the device: where the numbers are not those that were sealed


class LatentCopy(NamedTuple):
    """Latents, out of the pools with the tags of the pages that they lie in."""

    latents: Tensor  # [Lm, n, R+r], on the device
    tags: list[list[Tag]]  # [Lm][pages]
    broken: Tensor  # [Lm, pages] bool, on the device


class Pools:
    kda: Tensor  # [Lk, slots, H, K, V] fp32
    conv: Tensor  # [Lk, slots, W-1, 3C], tail_dtype
    latents: Tensor  # [Lm, pages, page_tokens, R+r]
    states: tuple[StateRows, ...]  # [Lk] the same, layer by layer
    pages: tuple[LatentPages, ...]  # [Lm]

    def __init__(
        self,
        model: ModelConfig,
        engine: EngineConfig,
        device: torch.device,
        dtype: torch.dtype,
        tail_dtype: torch.dtype,
    ) -> None:
        H, K, layers, slots = model.kda_heads, model.kda_head_dim, len(model.kda_layers), engine.max_slots
        tail = (layers, slots, model.conv_width - 1, 3 * model.kda_width)
        pages = (len(model.mla_layers), engine.pages, engine.page_tokens, model.latent_width)
        self.kda = torch.empty(layers, slots, H, K, K, device=device, dtype=torch.float32)
        self.conv = torch.empty(tail, device=device, dtype=tail_dtype)
        self.latents = torch.empty(pages, device=device, dtype=dtype)
        self.states = tuple(
            StateRows(f"KDA layer {number}", self.kda[i], self.conv[i], [BLANK] * slots)
            for i, number in enumerate(model.kda_layers)
        )
        self.pages = tuple(
            LatentPages(f"MLA layer {number}", self.latents[i], [BLANK] * engine.pages)
            for i, number in enumerate(model.mla_layers)
        )
        self.slot_seals = {"kda": Seals(self.kda), "conv": Seals(self.conv)}
        self.page_seals = Seals(self.latents)

    @property
    def page_tokens(self) -> int:
        return self.latents.shape[2]

    def wait(self) -> None:
        """On a GPU: until all copies between host and pools are made."""
        if self.kda.is_cuda:
            torch.cuda.current_stream(self.kda.device).synchronize()

    # slots

    def zero_slot(self, slot: int) -> None:
        """A slot is zeroed when it is given out: whatever its last owner left (a NaN, say) ends here."""
        self.put_slot(slot, torch.zeros_like(self.kda[:, slot]), torch.zeros_like(self.conv[:, slot]), BLANK)

    def put_slot(self, slot: int, kda: Tensor, conv: Tensor, tag: Tag) -> None:
        """kda [Lk,H,K,V] and conv [Lk,W-1,3C], from this device or the host."""
        self.kda[:, slot].copy_(kda, non_blocking=True)
        self.conv[:, slot].copy_(conv, non_blocking=True)
        for rows in self.states:
            rows.tags[slot] = tag
        for seals in self.slot_seals.values():
            seals.put(slot)

    def copy_slot(self, source: int, target: int) -> None:
        self.kda[:, target] = self.kda[:, source]
        self.conv[:, target] = self.conv[:, source]
        for rows in self.states:
            rows.tags[target] = rows.tags[source]
        for seals in self.slot_seals.values():
            seals.move(source, target)

    def copy_state(self, slot: int) -> StateCopy:
        copies = {name: pool[:, [slot]] for name, pool in (("kda", self.kda), ("conv", self.conv))}
        kda, conv = (self.slot_seals[name].broken(copy, [slot])[:, 0] for name, copy in copies.items())
        tags = [rows.tags[slot] for rows in self.states]
        return StateCopy({name: copy[:, 0] for name, copy in copies.items()}, tags, kda | conv)

    # pages

    def copy_page(self, source: int, target: int) -> None:
        self.latents[:, target] = self.latents[:, source]
        for rows in self.pages:
            rows.tags[target] = rows.tags[source]
        self.page_seals.move(source, target)

    def put_latents(self, table: list[int], first: int, latents: Tensor) -> None:
        """Writes latents [Lm, n, R+r] at positions first.. of the sequence that owns the pages ``table``.

        One contiguous copy per page and layer, none of which waits for the device when it is from pinned memory: see
        ``wait``. Tags and seals follow by ``tag_pages``.
        """
        size, done = self.page_tokens, 0
        while done < latents.shape[1]:
            page, at = table[(first + done) // size], (first + done) % size
            count = min(size - at, latents.shape[1] - done)
            for pool, source in zip(self.latents, latents, strict=True):
                pool[page, at : at + count].copy_(source[done : done + count], non_blocking=True)
            done += count

    def tag_pages(self, table: list[int], tags: Iterable[tuple[int, Tag]]) -> None:
        """Tags and seals pages whose latents have been put; (i, tag): the i-th page of ``table``."""
        for i, tag in tags:
            for rows in self.pages:
                rows.tags[table[i]] = tag
        self.page_seals.put(table)

    def gather(self, table: list[int], start: int, stop: int) -> LatentCopy:
        """Positions start..stop of the sequence that owns ``table``."""
        size = self.page_tokens
        first = start // size
        pages = table[first : -(-stop // size)]
        copy = self.latents[:, pages]
        rows = copy.flatten(1, 2)[:, start - first * size : stop - first * size]
        tags = [[layer.tags[page] for page in pages] for layer in self.pages]
        return LatentCopy(rows.contiguous(), tags, self.page_seals.broken(copy, pages))

    # tags of all layers, for a step whose numbers are computed in one piece

    def require(self, slot: int, table: list[int], before: Tag) -> None:
        """Raises ProvenanceError unless the slot, and the page that is being filled, say ``before`` in every layer."""
        known = before  # one object for many layers: found equal once
        for states in self.states:
            if states.tags[slot] is not known:
                states.require(slot, before)
                known = states.tags[slot]
        if before.position % self.page_tokens:
            page = table[before.position // self.page_tokens]
            for pages in self.pages:
                if pages.tags[page] is not known:
                    pages.require(page, before)
                    known = pages.tags[page]

    def tag(self, slot: int, table: list[int], first: int, after: Tag) -> None:
        """Tags what positions first..after.position have been written to."""
        for states in self.states:
            states.tags[slot] = after
        for i, tag in page_tags(first, after, self.page_tokens):
            for pages in self.pages:
                pages.tags[table[i]] = tag

    # seals

    def seal(self, slot: int, pages: Tensor) -> None:
        """Seals what a forward has written: a slot, and pages [n] (numbers, on the device)."""
        for seals in self.slot_seals.values():
            seals.put(slot)
        self.page_seals.put(pages)

    def intact(self, slot: int, page: int | None) -> Tensor:
        """[] bool on the device: whether a slot, and the page that is being filled, are what was sealed."""
        intact = self.slot_seals["kda"].intact(slot) & self.slot_seals["conv"].intact(slot)
        return intact if page is None else intact & self.page_seals.intact(page)
