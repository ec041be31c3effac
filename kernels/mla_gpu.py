"""Latent attention over pages on a GPU: few rows meet the latents themselves, many meet expanded keys and values.

A key costs the absorbed form 49 kFLOP more for each row than the expanded one, and the expansion costs 8.4 MFLOP and
60 KB of traffic whatever the rows: the two meet near 90 rows at the size of the 48B.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.linear import matmul_wide
from kernels.norm import wide

FEW = 64  # rows up to which the absorbed form runs
SCORES = 2**27  # numbers in one block of fp32 scores of the absorbed form
KEYS, PIECE = 32_768, 8_192  # keys expanded together; what is left is cut at a multiple of PIECE

Part = tuple[Tensor, Tensor]  # attention over some keys: values [T,h,V] fp32, logarithm of the mass [T,h] fp32


def absorbed(q: Tensor, pages: Tensor, table: Tensor, length: int, kv_b: Tensor, value_dim: int) -> Tensor:
    """Arguments and result of ``mla_absorbed``. Whole pages at a time, so that no matmul has an odd side."""
    tokens, heads, width = q.shape
    page, rank, nope = pages.shape[1], kv_b.shape[2], kv_b.shape[1] - value_dim
    rows, by_head = heads * tokens, q.transpose(0, 1)
    query = torch.cat([by_head[..., :nope] @ kv_b[:, :nope], by_head[..., nope:]], -1).mul_(width**-0.5)
    query = query.view(rows, -1)
    peak = torch.full((rows, 1), float("-inf"), dtype=wide(q).dtype, device=q.device)
    mass, acc = torch.zeros_like(peak), peak.new_zeros(rows, rank)
    block = max(SCORES // rows // page, 1)
    for first in range(0, len(table), block):
        start, keys = first * page, pages[table[first : first + block]].flatten(0, 1)
        keys[max(length - start, 0) :] = 0  # behind the last token may be anything
        scores = matmul_wide(query, keys.T)
        if start + len(keys) > length - tokens:
            _hide(scores.view(heads, tokens, -1), length - tokens - start)
        new_peak = torch.maximum(peak, scores.amax(-1, keepdim=True))
        p, fade = scores.sub_(new_peak).exp_(), torch.exp(peak - new_peak)
        mass = mass * fade + p.sum(-1, keepdim=True)
        acc = acc * fade + matmul_wide(p.to(keys.dtype), keys[:, :rank])
        peak = new_peak
    read = (acc / mass).to(q.dtype).view(heads, tokens, rank)
    return (read @ kv_b[:, nope:].transpose(1, 2)).transpose(0, 1)


def _hide(scores: Tensor, first: int) -> None:
    """Hides from query t, which is key ``first + t``, all later keys; what lies behind the last is among them."""
    rows, keys = scores.shape[1:]
    key, row = torch.arange(keys, device=scores.device), torch.arange(rows, device=scores.device)[:, None]
    scores.masked_fill_(key > first + row, float("-inf"))


def expanded(q: Tensor, pages: Tensor, table: Tensor, length: int, kv_b: Tensor, value_dim: int) -> Tensor:
    """Arguments and result of ``mla_absorbed``. The new rows see themselves first, then the prefix block by block."""
    prefix = length - q.shape[0]
    total = _attend(q, *_expand(pages, table, prefix, length, kv_b, value_dim), causal=True)
    for start, stop in _blocks(prefix):
        part = _attend(q, *_expand(pages, table, start, stop, kv_b, value_dim), causal=False)
        total = _merge(total, part)
    return total[0].to(q.dtype)


def _blocks(length: int) -> Iterator[tuple[int, int]]:
    """Cuts 0..length at multiples of KEYS, then at the last multiple of PIECE: most blocks have one of few sizes."""
    cuts = [*range(0, length, KEYS), length // PIECE * PIECE, length]
    for start, stop in pairwise(cuts):
        if start < stop:
            yield start, stop


def _expand(pages: Tensor, table: Tensor, start: int, stop: int, kv_b: Tensor, value_dim: int) -> tuple[Tensor, Tensor]:
    """Keys [n,h,N+r] and values [n,h,V] of positions start..stop."""
    page, (heads, out, rank) = pages.shape[1], kv_b.shape
    first = start // page
    rows = pages[table[first : -(-stop // page)]].flatten(0, 1)[start - first * page : stop - first * page]
    both = F.linear(rows[:, :rank], kv_b.flatten(0, 1)).view(-1, heads, out)
    shared = rows[:, None, rank:].expand(-1, heads, -1)
    return torch.cat([both[..., : out - value_dim], shared], -1), both[..., out - value_dim :]


def _merge(a: Part, b: Part) -> Part:
    """Attention over both sets of keys. ``a``'s values are overwritten."""
    share = torch.sigmoid(b[1] - a[1]).unsqueeze(-1)
    return a[0].lerp_(b[0], share), torch.logaddexp(a[1], b[1])


def _attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Part:
    """Softmax attention of q [T,h,d] over k [n,h,d] and v [n,h,V]; causal: the last of T = n rows sees all keys."""
    if q.dtype in (torch.float32, torch.float64):
        return _attend_plain(q, k, v, causal)
    tokens, value_dim = q.shape[0], v.shape[-1]
    rows, keys, values = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    if tokens % PIECE == 0 and k.shape[0] % PIECE == 0:  # cuDNN is the faster one and plans anew for every shape
        o, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(rows, keys, values, None, True, 0.0, causal)
    else:
        values = F.pad(values, (0, q.shape[-1] - value_dim))  # flash attention 2 has one head width
        o, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(rows, keys, values, 0.0, causal)
    return o[0, :, :, :value_dim].transpose(0, 1).float(), lse.reshape(-1, tokens).T


def _attend_plain(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Part:
    scores = torch.einsum("thd,nhd->thn", q, k) * q.shape[-1] ** -0.5
    if causal:
        ahead = torch.ones(scores.shape[0], scores.shape[2], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(ahead[:, None], float("-inf"))
    return torch.einsum("thn,nhv->thv", torch.softmax(scores, -1), v), torch.logsumexp(scores, -1)
