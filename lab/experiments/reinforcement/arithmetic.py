"""Sums to write out: `0417+9920+0083=10420`, digits as tokens. The reward is 1 where every digit is right."""

from dataclasses import dataclass

import torch
from torch import Tensor

PLUS, EQUALS, VOCABULARY = 10, 11, 16
APART = 7  # first numbers divisible by this are the test's alone


@dataclass(frozen=True)
class Sums:
    """``terms`` numbers of ``digits`` digits each, zeros in front."""

    terms: int
    digits: int

    @property
    def answer(self) -> int:
        """Digits of every answer, zeros in front."""
        return len(str(self.terms * (10**self.digits - 1)))

    def draw(self, count: int, seen: bool, pick: torch.Generator) -> tuple[Tensor, Tensor]:
        """(prompts [count, terms·(digits+1)], answers [count, answer]) int64 on the generator's device.

        ``seen``: of those to train on, else of those to test with.
        """
        place = {"generator": pick, "device": pick.device}
        numbers = torch.randint(10**self.digits, (count, self.terms), **place)
        rest = torch.randint(1, APART, (count,), **place) if seen else 0
        numbers[:, 0] = torch.randint(10**self.digits // APART, (count,), **place) * APART + rest
        signs = torch.full((count, self.terms, 1), PLUS, device=pick.device)
        signs[:, -1] = EQUALS
        return torch.cat([written(numbers, self.digits), signs], 2).flatten(1), written(numbers.sum(1), self.answer)


def written(numbers: Tensor, digits: int) -> Tensor:
    """The decimal digits of non-negative integers, highest first: [...] -> [..., digits]."""
    powers = 10 ** torch.arange(digits - 1, -1, -1, device=numbers.device)
    return numbers[..., None] // powers % 10


def rewards(said: Tensor, right: Tensor) -> Tensor:
    """1.0 where all digits agree, else 0.0: [...,A] and [...,A] -> [...]."""
    return (said == right).all(-1).float()
