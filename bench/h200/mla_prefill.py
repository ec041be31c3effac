"""Latent attention of many new rows behind a cached prefix, the 48B's shape, beside PyTorch's flash attention."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from bench.h200.measuring import Case
from bench.h200.mla_decode import HEADS, NOPE, PAGE, RANK, SHARED, VALUE, K
from kernels import mla_absorbed
from kernels.gpu.mla_decode import mla_few
from kernels.gpu.mla_prefill import mla_prefill
from kernels.gpu.packing import Packing

MANY = [(8 * K, 8 * K), (8 * K, 32 * K), (8 * K, 128 * K), (32 * K, 32 * K)]  # (new rows, all tokens)
FEW = [(16, 128 * K), (64, 128 * K), (64, 8 * K)]
SAMPLE = 32  # rows that are compared, evenly over all


@dataclass(frozen=True)
class Input:
    q: Tensor
    pages: Tensor
    table: Tensor
    kv_b: Tensor
    length: int

    @classmethod
    def of(cls, rows: int, length: int) -> "Input":
        count = -(-length // PAGE)
        q, kv_b = torch.randn(rows, HEADS, NOPE + SHARED), torch.randn(HEADS, NOPE + VALUE, RANK) * RANK**-0.5
        pages = torch.randn(count, PAGE, RANK + SHARED, dtype=torch.bfloat16, device="cuda")
        table = torch.randperm(count, dtype=torch.int32).cuda()
        q, kv_b = (x.to("cuda", torch.bfloat16) for x in (q, kv_b))
        return cls(q, pages, table, kv_b, length)

    def packed(self) -> tuple:
        lengths = torch.tensor([self.length], dtype=torch.int32, device="cuda")
        return self.q, self.pages, self.table[None], lengths, Packing.of([len(self.q)], "cuda"), self.kv_b, VALUE

    def sampled(self) -> slice:
        return slice(len(self.q) // SAMPLE - 1 if len(self.q) > SAMPLE else 0, None, max(len(self.q) // SAMPLE, 1))

    def expected(self) -> tuple[Tensor]:
        """Row by row in the absorbed form: the scores of all would not fit."""
        q, kv_b, pages = self.q.double(), self.kv_b.double(), self.pages[self.table].double()
        order, first = torch.arange(len(self.table), device="cuda"), self.length - len(q) + 1
        rows = range(len(q))[self.sampled()]
        found = [mla_absorbed(q[t : t + 1], pages, order, first + t, kv_b, VALUE) for t in rows]
        return (torch.cat(found),)

    def work(self) -> tuple[int, int]:
        """(bytes, floating-point operations): every row and its keys, keys expanded once."""
        rows, prefix = len(self.q), self.length - len(self.q)
        pairs = rows * prefix + rows * (rows + 1) // 2
        moved = 2 * (self.length * (RANK + SHARED) + self.kv_b.numel() + rows * HEADS * (NOPE + SHARED + VALUE))
        expanding = self.length * RANK * (NOPE + VALUE)
        return moved, 2 * HEADS * (pairs * (NOPE + SHARED + VALUE) + expanding)


def cases() -> Iterator[Case]:
    torch.manual_seed(0)
    for rows, length in MANY:
        x = Input.of(rows, length)
        impls = {"ours": _ours(x), "torch": _torch(x)}
        yield Case("mla_prefill", f"{rows // K}k rows of {length // K}k", *x.work(), impls, x.expected)
    for rows, length in FEW:
        x = Input.of(rows, length)
        impls = {"ours": _ours(x), "ours, absorbed": _few(x), "torch": _torch(x)}
        yield Case("mla_prefill", f"{rows} rows of {length // K}k", *x.work(), impls, x.expected, graph=True)


def _ours(x: Input):
    arguments = x.packed()
    return lambda: mla_prefill(*arguments, [x.length])[x.sampled()]


def _few(x: Input):
    arguments = x.packed()
    return lambda: mla_few(*arguments)[x.sampled()]


def _torch(x: Input):
    """All keys and values expanded, then one call; its attention has one head width."""
    mask = causal_lower_right(len(x.q), x.length)

    def run() -> Tensor:
        latents = x.pages[x.table].flatten(0, 1)[: x.length]
        both = F.linear(latents[:, :RANK], x.kv_b.flatten(0, 1)).view(-1, HEADS, NOPE + VALUE)
        k = torch.cat([both[..., :NOPE], latents[:, None, RANK:].expand(-1, HEADS, -1)], -1)
        v = F.pad(both[..., NOPE:], (0, NOPE + SHARED - VALUE))
        rows = (y.transpose(0, 1)[None] for y in (x.q, k, v))
        o = F.scaled_dot_product_attention(*rows, attn_mask=mask)
        return o[0, ..., :VALUE].transpose(0, 1)[x.sampled()]

    return run
