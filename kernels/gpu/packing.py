"""Which rows of a packed batch belong to which sequence, as the kernels take it: tables made once for all layers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 64  # rows; a chunk never holds rows of two sequences


@dataclass(frozen=True)
class Packing:
    """N sequences, their rows one after another. A chunk is 64 rows of one sequence, its last may be shorter."""

    rows: int
    starts: Tensor  # [N+1] int32: sequence n has rows starts[n]..starts[n+1]
    first_chunk: Tensor  # [N+1] int32: sequence n has chunks first_chunk[n]..first_chunk[n+1]
    sequence_of: Tensor  # [chunks] int32

    @property
    def sequences(self) -> int:
        return self.starts.numel() - 1

    @property
    def chunks(self) -> int:
        return self.sequence_of.numel()

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str) -> "Packing":
        """lengths [N], each at least 1. Nothing that the device still computes is waited for."""
        counts = torch.tensor(lengths)
        chunks = -(-counts // CHUNK)
        starts, first = (torch.cat([torch.zeros(1, dtype=torch.long), x.cumsum(0)]) for x in (counts, chunks))
        of = torch.repeat_interleave(torch.arange(len(lengths)), chunks)
        return cls(int(counts.sum()), *(x.int().to(device, non_blocking=True) for x in (starts, first, of)))
