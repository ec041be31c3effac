"""The memory itself: latent pages, recurrent states and convolution tails of all live sequences."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.config import EngineConfig, ModelConfig


@dataclass(frozen=True)
class Pools:
    kda: Tensor  # [Lk, slots, H, K, V] fp32
    conv: Tensor  # [Lk, slots, W-1, 3C]
    latents: Tensor  # [Lm, pages, page_tokens, R+r]

    @classmethod
    def allocate(cls, model: ModelConfig, engine: EngineConfig, device: torch.device, dtype: torch.dtype) -> "Pools":
        H, K, layers, slots = model.kda_heads, model.kda_head_dim, len(model.kda_layers), engine.max_slots
        tail = (layers, slots, model.conv_width - 1, 3 * model.kda_width)
        pages = (len(model.mla_layers), engine.pages, engine.page_tokens, model.latent_width)
        return cls(
            kda=torch.empty(layers, slots, H, K, K, device=device, dtype=torch.float32),
            conv=torch.empty(tail, device=device, dtype=dtype),
            latents=torch.empty(pages, device=device, dtype=dtype),
        )

    def zero_slot(self, slot: int) -> None:
        """A slot is zeroed when it is given out: whatever its last owner left (a NaN, say) ends here."""
        self.kda[:, slot] = 0
        self.conv[:, slot] = 0

    def copy_slot(self, source: int, target: int) -> None:
        self.kda[:, target] = self.kda[:, source]
        self.conv[:, target] = self.conv[:, source]

    def copy_page(self, source: int, target: int) -> None:
        self.latents[:, target] = self.latents[:, source]

    def gather(self, pages: list[int], start: int, stop: int) -> Tensor:
        """The latents of positions start..stop of the sequence that owns ``pages``: [Lm, stop-start, R+r], a copy."""
        size = self.latents.shape[2]
        first, last = start // size, -(-stop // size)
        rows = self.latents[:, pages[first:last]].flatten(1, 2)
        return rows[:, start - first * size : stop - first * size].clone()

    def scatter(self, pages: list[int], first: int, latents: Tensor) -> None:
        """Writes latents [Lm, n, R+r] at positions first.. of the sequence that owns ``pages``, page by page."""
        size, done = self.latents.shape[2], 0
        while done < latents.shape[1]:
            at = (first + done) % size
            rows = latents[:, done : done + size - at]
            self.latents[:, pages[(first + done) // size], at : at + rows.shape[1]] = rows.to(self.latents)
            done += rows.shape[1]
