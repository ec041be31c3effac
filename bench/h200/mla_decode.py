"""Latent attention of one new row a sequence over paged latents, the 48B's shape, beside plain PyTorch.

The public FlashMLA takes 80 us at 128k and 346 us at 1M for a batch of 1 (kernels.md §2.7; not run here).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.h200.measuring import Case
from kernels import mla_absorbed
from kernels.gpu.mla_decode import mla_decode

HEADS, NOPE, SHARED, VALUE, RANK, PAGE = 32, 128, 64, 128, 512, 256
K = 1024
SHAPES = [
    *[(1, length) for length in (4 * K, 32 * K, 128 * K, 1024 * K)],
    *[(16, 32 * K), (16, 128 * K), (64, 8 * K), (64, 128 * K), (256, 4 * K), (256, 16 * K)],
]


@dataclass(frozen=True)
class Input:
    q: Tensor
    pages: Tensor
    tables: Tensor
    lengths: Tensor
    kv_b: Tensor
    length: int

    @classmethod
    def of(cls, batch: int, length: int) -> "Input":
        each = -(-length // PAGE)
        q = torch.randn(batch, HEADS, NOPE + SHARED)
        kv_b = torch.randn(HEADS, NOPE + VALUE, RANK) * RANK**-0.5
        pages = torch.randn(batch * each, PAGE, RANK + SHARED, dtype=torch.bfloat16, device="cuda")
        tables = torch.randperm(batch * each, dtype=torch.int32).view(batch, each).cuda()
        lengths = torch.full((batch,), length, dtype=torch.int32, device="cuda")
        q, kv_b = (x.to("cuda", torch.bfloat16) for x in (q, kv_b))
        return cls(q, pages, tables, lengths, kv_b, length)

    def ours(self) -> Tensor:
        return mla_decode(self.q, self.pages, self.tables, self.lengths, self.kv_b, VALUE)

    def plain(self) -> Tensor:
        rows = [self._plain(n, self.q, self.pages, self.kv_b) for n in range(len(self.q))]
        return torch.cat(rows)

    def expected(self) -> tuple[Tensor]:
        q, kv_b = self.q.double(), self.kv_b.double()
        rows = []
        for n, table in enumerate(self.tables):
            pages = self.pages[table].double()
            order = torch.arange(len(table), device="cuda")
            rows.append(mla_absorbed(q[n : n + 1], pages, order, self.length, kv_b, VALUE))
        return (torch.cat(rows),)

    def _plain(self, n: int, q: Tensor, pages: Tensor, kv_b: Tensor) -> Tensor:
        return mla_absorbed(q[n : n + 1], pages, self.tables[n], self.length, kv_b, VALUE)


def cases() -> Iterator[Case]:
    torch.manual_seed(0)
    for batch, length in SHAPES:
        x = Input.of(batch, length)
        impls = {"ours": x.ours} | ({"torch": x.plain} if batch <= 16 else {})
        yield Case("mla_decode", f"B={batch} {length // K}k", *_work(batch, length), impls, x.expected, graph=True)
    for length in (4 * K, 128 * K):
        layers = [Input.of(1, length) for _ in range(8)]
        chain = {"ours": lambda layers=layers: [layer.ours() for layer in layers][-1]}
        name = f"B=1 {length // K}k, a chain of 8 layers"
        expected = layers[-1].expected
        yield Case("mla_decode", name, *_work(1, length), chain, expected, graph=True, launches=len(layers))


def _work(batch: int, length: int) -> tuple[int, int]:
    """(bytes, floating-point operations): latents and kv_b read once, rows in and out."""
    rows = batch * HEADS * (NOPE + SHARED + VALUE)
    moved = 2 * (batch * length * (RANK + SHARED) + HEADS * (NOPE + VALUE) * RANK + rows)
    return moved, 2 * batch * HEADS * (length * (2 * RANK + SHARED) + RANK * (NOPE + VALUE))
