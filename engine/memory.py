"""How much fits: weights, slots and pages against the memory that is free, measured before it is taken.

Weights come first. Then some memory stays for what a forward needs itself, and the rest is for sequences: a slot each
(fixed size) and pages (by tokens). Which of the two is short first depends on how long the texts are: an eighth goes to
slots, the rest to pages.
"""

from dataclasses import dataclass, replace
from math import prod

import torch

from engine import device as devices
from engine.checkpoint import Inventory
from engine.config import EngineConfig, ModelConfig
from engine.seals import SAMPLES

AUTO = 0  # in place of a number of slots or tokens: as many as fit

_SLOTS_SHARE = 8
_LEAST_SLOTS, _MOST_SLOTS = 4, 256  # a running answer takes three
_LEAST_TOKENS = 4096
_MOST_TEXTS = 16  # of the model's full length: more pages than for these are not taken
_HOST_RESERVE = 256 * 2**20


class DoesNotFit(ValueError):
    """Weights or pools that are larger than the free memory. Nothing was taken; the message has the numbers."""


@dataclass(frozen=True)
class Budget:
    """What sequences may take of a device, and what one takes."""

    device: torch.device
    free: int  # bytes
    reserve: int  # of these, for the forward's own memory
    slot: int  # bytes
    page: int  # bytes

    @classmethod
    def of(cls, model: ModelConfig, engine: EngineConfig, device: torch.device, dtype: torch.dtype) -> "Budget":
        memory = devices.memory(device)
        reserve = memory.total // 10 if device.type == "cuda" else _HOST_RESERVE
        page = page_bytes(model, engine.page_tokens, dtype)
        tail_dtype = torch.float32 if device.type == "cpu" else dtype  # at most: KimiLinear.tail_dtype
        return cls(device, memory.free, reserve, slot_bytes(model, tail_dtype), page)

    @property
    def left(self) -> int:
        return max(0, self.free - self.reserve)

    def need(self, slots: int, pages: int) -> int:
        return slots * self.slot + pages * self.page

    def slots(self, pages: int) -> int:
        """How many fit beside ``pages`` pages."""
        return max(0, self.left - pages * self.page) // self.slot

    def pages(self, slots: int) -> int:
        """How many fit beside ``slots`` slots."""
        return max(0, self.left - slots * self.slot) // self.page


def slot_bytes(model: ModelConfig, dtype: torch.dtype) -> int:
    """A sequence's recurrent states and convolution tails, with their seals."""
    state = model.kda_heads * model.kda_head_dim**2 + SAMPLES
    tail = (model.conv_width - 1) * 3 * model.kda_width + SAMPLES
    return len(model.kda_layers) * (4 * state + dtype.itemsize * tail)


def page_bytes(model: ModelConfig, page_tokens: int, dtype: torch.dtype) -> int:
    return len(model.mla_layers) * (page_tokens * model.latent_width + SAMPLES) * dtype.itemsize


def sized(
    config: EngineConfig, slots: int, tokens: int, model: ModelConfig, device: torch.device, dtype: torch.dtype
) -> EngineConfig:
    """``config`` with these numbers of slots and tokens, where AUTO is as many as fit now, after the weights."""
    budget = Budget.of(model, config, device, dtype)
    pages = tokens // config.page_tokens
    if slots == AUTO:
        room = budget.left // _SLOTS_SHARE // budget.slot if tokens == AUTO else budget.slots(pages)
        slots = min(max(room, _LEAST_SLOTS), _MOST_SLOTS)
    if tokens == AUTO:
        least, most = (
            -(-count // config.page_tokens) for count in (_LEAST_TOKENS, _MOST_TEXTS * model.model_max_length)
        )
        pages = min(max(budget.pages(slots), least), most)
        tokens = pages * config.page_tokens
    _require(budget, slots, tokens, config.page_tokens)
    return replace(config, max_slots=slots, max_tokens=tokens)


def require(config: EngineConfig, model: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
    """DoesNotFit, when the pools of ``config`` do not; here without a reserve, since ``sized`` has left one."""
    budget = replace(Budget.of(model, config, device, dtype), reserve=0)
    _require(budget, config.max_slots, config.max_tokens, config.page_tokens)


def require_weights(inventory: Inventory, fp32: set[str], device: torch.device, dtype: torch.dtype) -> None:
    """DoesNotFit, when the weights do not: before the first is read. ``fp32``: the names of those that are kept so."""
    need = sum(prod(shape) * (4 if name in fp32 else dtype.itemsize) for name, (_, shape) in inventory.items())
    free = devices.memory(device).free
    if need > free:
        kind = str(dtype).removeprefix("torch.")
        raise DoesNotFit(
            f"the weights take {_size(need)} in {kind}; {_size(free)} are free on {device}. Free memory there, or take "
            f"a device with more of it{', or bfloat16 (SHIORI_ENGINE_DTYPE)' if dtype.itemsize > 2 else ''}"
        )


def _require(budget: Budget, slots: int, tokens: int, page_tokens: int) -> None:
    pages = tokens // page_tokens
    need = budget.need(slots, pages)
    if need <= budget.left:
        return
    fits = budget.pages(slots) * page_tokens
    hint = f"beside {slots:,} slots {fits:,} tokens fit" if fits else f"{budget.slots(0):,} slots fit, without a token"
    reserve = f", {_size(budget.reserve)} of them stay for the forward's own memory" if budget.reserve else ""
    raise DoesNotFit(
        f"{slots:,} slots of {_size(budget.slot)} and {pages:,} pages of {_size(budget.page)} ({tokens:,} tokens) need "
        f"{_size(need)}; {_size(budget.free)} are free on {budget.device}{reserve}. Now {hint}. Lower "
        "SHIORI_ENGINE_TOKENS or SHIORI_ENGINE_SLOTS (auto: what fits), free memory there, or take a device with more"
    )


def _size(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.2f} MB"
