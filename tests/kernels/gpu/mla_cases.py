"""Paged latents for the tests of latent attention: everything that no sequence owns is NaN."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import mla_expanded


@dataclass(frozen=True)
class Shape:
    heads: int = 3
    nope: int = 32
    shared: int = 16
    value: int = 24
    rank: int = 48
    page: int = 32


def poison_new_tensors(monkeypatch) -> None:
    """What is allocated and not written is NaN."""
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        plain = getattr(owner, name)

        def poisoned(*args, plain=plain, **named):
            new = plain(*args, **named)
            return new.fill_(float("nan")) if new.is_floating_point() else new

        monkeypatch.setattr(owner, name, poisoned)


LARGE = Shape(32, 128, 64, 128, 512, 256)  # of the 48B


@dataclass(frozen=True)
class Paged:
    """Sequences of ``lengths`` tokens; a length of 0 has a table of pages that do not exist."""

    shape: Shape
    lengths: Sequence[int]
    latents: list[Tensor]
    kv_b: Tensor
    pages: Tensor
    tables: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], shape: Shape, dtype: torch.dtype, device: torch.device) -> "Paged":
        wide, page = shape.rank + shape.shared, shape.page
        latents = [torch.randn(n, wide, device=device).to(dtype) for n in lengths]
        kv_b = torch.randn(shape.heads, shape.nope + shape.value, shape.rank, device=device)
        counts = [-(-n // page) for n in lengths]
        free = (torch.randperm(sum(counts) + 3) + 1).tolist()
        pages = torch.full((len(free) + 1, page, wide), float("nan"), dtype=dtype, device=device)
        tables = torch.full((len(lengths), max(counts) + 1), 2**30, dtype=torch.int32)
        for n, (rows, count) in enumerate(zip(latents, counts, strict=True)):
            for i in range(count):
                tables[n, i] = free.pop()
                tile = rows[i * page : (i + 1) * page]
                pages[tables[n, i], : len(tile)] = tile
        return cls(shape, lengths, latents, (kv_b * shape.rank**-0.5).to(dtype), pages, tables.to(device))

    def queries(self, rows: int, scale: float = 1.0) -> Tensor:
        """[rows,h,N+r], a view into a wider row, as a projection leaves it."""
        wide = self.shape.heads * (self.shape.nope + self.shape.shared)
        both = scale * torch.randn(rows, wide + 16, device=self.pages.device)
        return both.to(self.pages.dtype)[:, :wide].unflatten(1, (self.shape.heads, -1))

    def expected(self, q: Tensor, sequence: int) -> Tensor:
        """By the definition in float64, for the last rows of a sequence."""
        latents = self.latents[sequence].double()
        return mla_expanded(q.double(), latents, self.kv_b.double(), self.shape.value)

    def device_lengths(self) -> Tensor:
        return torch.tensor(self.lengths, dtype=torch.int32, device=self.pages.device)
