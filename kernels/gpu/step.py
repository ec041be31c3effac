"""What a decode step does beside its layers, a row per sequence: page tables, seals, and what the host is told.

A row whose slot is negative is idle: nothing is read or written for it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.early import early, follow, launch

_BLOCK = 1024  # page numbers that one program copies


def places(
    known: Tensor, slots: Tensor, lengths: Tensor, pages: int, page_tokens: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The page tables of the rows, the pages that each goes on in and has written after this step, and for each a 1.

    known [slots, ≥ pages] int32: page numbers by slot; slots, lengths [B] int32, a length counts the new row ->
    (tables [B,pages], begun [B], written [B], ones [B]) int32; -1: idle, or, of begun, a page that holds nothing yet.
    """
    batch = slots.numel()
    tables = torch.empty(batch, pages, dtype=torch.int32, device=slots.device)
    begun, written, ones = (torch.empty_like(slots) for _ in range(3))
    overlap = early(slots.device)
    _places[(batch, triton.cdiv(pages, _BLOCK))](
        known, slots, lengths, tables, begun, written, ones, known.stride(0), PAGES=pages, PAGE=page_tokens,
        BLOCK=_BLOCK, EARLY=overlap, **launch(overlap),
    )  # fmt: skip
    return tables, begun, written, ones


@triton.jit
def _places(
    known, slots, lengths, tables, begun, written, ones, stride, PAGES: tl.constexpr, PAGE: tl.constexpr,
    BLOCK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    follow(EARLY)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(slots + row).to(tl.int64)
    mine = known + slot * stride
    number = tl.load(mine + column, mask=(column < PAGES) & (slot >= 0), other=0)
    tl.store(tables + row * PAGES + column, number, mask=column < PAGES)
    if tl.program_id(1) == 0:
        last = tl.maximum(tl.load(lengths + row) - 1, 0)
        page = tl.load(mine + last // PAGE, mask=slot >= 0, other=-1)
        tl.store(written + row, page)
        tl.store(begun + row, tl.where(last % PAGE > 0, page, -1))
        tl.store(ones + row, 1)


def check_seals(samples: Tensor, kept: Tensor, rows: Tensor, intact: Tensor) -> None:
    """Clears intact [B] int32 where a row of a pool is not, in every layer, what was sealed.

    samples [L,rows,S] a view of the pool's bits, kept [L,rows,S] contiguous; rows [B] int32, negative: no row.
    """
    if samples.shape[0]:
        _seals[(rows.numel(),)](*_sealed(samples, kept, rows), intact, **_sizes(samples), PUT=False)


def put_seals(samples: Tensor, kept: Tensor, rows: Tensor) -> None:
    """Seals rows as they are now."""
    if samples.shape[0]:
        _seals[(rows.numel(),)](*_sealed(samples, kept, rows), rows, **_sizes(samples), PUT=True)


def _sealed(samples: Tensor, kept: Tensor, rows: Tensor) -> tuple[object, ...]:
    return samples, kept, rows, samples.shape[0], *samples.stride(), *kept.stride()[:2]


def _sizes(samples: Tensor) -> dict[str, int]:
    overlap = early(samples.device)
    sizes = {"LAYERS": triton.next_power_of_2(samples.shape[0]), "SAMPLES": samples.shape[2], "EARLY": overlap}
    return sizes | launch(overlap)


@triton.jit
def _seals(
    samples, kept, rows, layers, layer_stride, row_stride, apart, kept_layer, kept_row, intact,
    LAYERS: tl.constexpr, SAMPLES: tl.constexpr, PUT: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    follow(EARLY)
    at = tl.program_id(0)
    row = tl.load(rows + at).to(tl.int64)
    layer = tl.arange(0, LAYERS).to(tl.int64)[:, None]
    sample = tl.arange(0, SAMPLES).to(tl.int64)[None, :]
    here = (layer < layers) & (row >= 0)
    found = tl.load(samples + layer * layer_stride + row * row_stride + sample * apart, mask=here, other=0)
    seal = kept + layer * kept_layer + row * kept_row + sample
    if PUT:
        tl.store(seal, found, mask=here)
    else:
        other = tl.sum(tl.sum((found != tl.load(seal, mask=here, other=0)).to(tl.int32), 1), 0)
        tl.store(intact + at, tl.where(other == 0, tl.load(intact + at), 0))


def outcome(token: Tensor, logprob: Tensor, finite: Tensor, intact: Tensor) -> Tensor:
    """What the host waits for, in one piece: [B,4] fp64 of token, its log-probability, whether all is finite, intact.

    token [B] int64, logprob [B] fp32, finite and intact [B] int32.
    """
    told = torch.empty(token.numel(), 4, dtype=torch.float64, device=token.device)
    overlap = early(token.device)
    _outcome[(token.numel(),)](token, logprob, finite, intact, told, overlap, **launch(overlap))
    return told


@triton.jit
def _outcome(token, logprob, finite, intact, told, EARLY: tl.constexpr):
    follow(EARLY)
    row = tl.program_id(0)
    here = told + row * 4
    tl.store(here, tl.load(token + row).to(tl.float64))
    tl.store(here + 1, tl.load(logprob + row).to(tl.float64))
    tl.store(here + 2, tl.load(finite + row).to(tl.float64))
    tl.store(here + 3, tl.load(intact + row).to(tl.float64))
