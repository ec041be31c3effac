"""Logits to one token id. Randomness is a function of (seed, position): no state, nothing to restore."""

import math
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor


@dataclass(frozen=True)
class SamplingParams:
    temperature: float = 0.0  # 0: greedy
    top_p: float = 1.0  # keep the most likely tokens until they hold this much; 1: all
    top_k: int = 0  # keep this many; 0: all
    seed: int = 0
    max_tokens: int = 128
    stop_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature {self.temperature}: zero or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p}: more than 0, at most 1")
        if self.top_k < 0 or self.max_tokens < 1:
            raise ValueError(f"top_k {self.top_k}: zero or more; max_tokens {self.max_tokens}: one or more")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed {self.seed}: 64 bits, unsigned")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0 or self.top_k == 1


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits, the same for the same (seed, position) everywhere."""
    counter = seed.to_bytes(8, "little") + position.to_bytes(8, "little")
    return (int.from_bytes(blake2b(counter, digest_size=8).digest(), "little") >> 11) * 2.0**-53


def sample(logits: Tensor, params: SamplingParams, position: int) -> int:
    """logits [vocab] -> the id that stands at ``position``. Ties go to the smaller id."""
    if params.greedy:
        return int(logits.argmax())
    values, ids = torch.sort(logits.double() / params.temperature, descending=True, stable=True)
    if params.top_k:
        values = values[: params.top_k]
    mass = torch.softmax(values, -1).cumsum(-1)
    kept = 1 + int((mass[:-1] < params.top_p).sum())
    point = uniform(params.seed, position) * mass[kept - 1]
    return int(ids[min(int(torch.searchsorted(mass, point, right=True)), kept - 1)])


def logprob(logits: Tensor, token: int) -> float:
    """The natural log-probability of ``token`` under the model itself: no temperature, no cut."""
    return float(torch.log_softmax(logits.double(), -1)[token])
