"""A few numbers of every row, kept beside the tags: what moves a row's numbers behind their tag's back shows here."""

import math

import torch
from torch import Tensor

SAMPLES = 16  # numbers of a row
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Seals:
    """The seals of one pool [L, rows, …], whose rows lie in one piece each.

    A seal sees a row that was swapped, blanked, overwritten or left over from earlier, not a change of single numbers:
    it compares bits at 16 places, spread over the row and different in every layer. It is taken from the row at the end
    of a forward, so a forward that computed wrong numbers, or wrote the right ones nowhere, does not show.
    """

    def __init__(self, pool: Tensor) -> None:
        self.samples = _sample(pool)  # [L, rows, SAMPLES], a view
        self.kept = torch.zeros_like(self.samples, memory_format=torch.contiguous_format)

    def put(self, row: int | list[int] | Tensor) -> None:
        self.kept[:, row] = self.samples[:, row]

    def move(self, source: int, target: int) -> None:
        self.kept[:, target] = self.kept[:, source]

    def intact(self, row: int) -> Tensor:
        """[] bool on the pool's device: whether the row is, in every layer, what was sealed."""
        return (self.samples[:, row] == self.kept[:, row]).all()

    def broken(self, copy: Tensor, rows: list[int]) -> Tensor:
        """copy [L, len(rows), …] of these rows -> [L, len(rows)] bool on the pool's device: which are not as sealed."""
        return (_sample(copy) != self.kept[:, rows]).any(-1)


def _sample(pool: Tensor) -> Tensor:
    """[L, rows, …] -> a view [L, rows, SAMPLES] of the bits. Layer l starts at number l: rows of two layers differ."""
    bits, layers = pool.view(_BITS[pool.itemsize]), pool.shape[0]
    apart = (math.prod(pool.shape[2:]) - layers) // SAMPLES
    to_layer, to_row = bits.stride()[:2]
    return bits.as_strided((*pool.shape[:2], SAMPLES), (to_layer + 1, to_row, apart))
