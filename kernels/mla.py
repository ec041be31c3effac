"""Multi-head latent attention without positions: the definition, and the absorbed form over a paged latent cache."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.linear import matmul_wide
from kernels.norm import wide

BLOCK_TOKENS = 2048  # keys looked at together; block edges lie at multiples of it from the start of the sequence
ROWS = 64  # queries are looked at in so many rows, and keys in whole pages: odd matmul shapes round differently
FEW_ROWS = 16  # what is left of a segment at its end, padded to a multiple of it, by itself wherever the step began


def mla_expanded(q: Tensor, latents: Tensor, kv_b: Tensor, value_dim: int) -> Tensor:
    """The definition (model-spec §2.5): keys and values expanded from the latents, causal softmax attention.

    q [T,h,N+r] the last T of S tokens; latents [S,R+r] = normed latent ‖ shared key part; kv_b [h,N+V,R] expands a
    latent into a head's key (N rows) and value (V rows) -> [T,h,V]. Scale (N+r)^-1/2; nothing is rotated.
    """
    tokens, heads, width = q.shape
    length, rank = latents.shape[0], kv_b.shape[2]
    expanded = torch.einsum("sr,hnr->shn", latents[:, :rank], kv_b)
    shared = latents[:, None, rank:].expand(-1, heads, -1)
    k = torch.cat([expanded[..., : kv_b.shape[1] - value_dim], shared], -1)
    scores = torch.einsum("thd,shd->hts", q, k) * width**-0.5
    ahead = torch.arange(length)[None, :] > torch.arange(length - tokens, length)[:, None]
    p = torch.softmax(scores.masked_fill(ahead.to(q.device), float("-inf")), -1)
    return torch.einsum("hts,shv->thv", p, expanded[..., kv_b.shape[1] - value_dim :])


def mla_absorbed(q: Tensor, pages: Tensor, table: Tensor, length: int, kv_b: Tensor, value_dim: int) -> Tensor:
    """The same without expanding a key: ``q'_h = q_h·A_h`` meets the latents themselves, the values are expanded last.

    q [T,h,N+r] the last T of ``length`` tokens; pages [P,page,R+r] the pool of one layer; table [n] the pages of this
    sequence in order, the T newest rows already written; kv_b [h,N+V,R] -> [T,h,V]. Blocks of BLOCK_TOKENS keys with a
    running softmax in fp32: memory does not grow with the length, and the result depends on (T, length) only.
    """
    left = q.shape[0] % ROWS
    if left and left < q.shape[0]:
        whole = _absorbed(q[:-left], pages, table, length - left, kv_b, value_dim)
        return torch.cat([whole, _absorbed(q[-left:], pages, table, length, kv_b, value_dim)])
    return _absorbed(q, pages, table, length, kv_b, value_dim)


def _absorbed(q: Tensor, pages: Tensor, table: Tensor, length: int, kv_b: Tensor, value_dim: int) -> Tensor:
    """Of a multiple of ROWS queries, or of fewer than ROWS."""
    tokens, heads, width = q.shape
    rank, page = kv_b.shape[2], pages.shape[1]
    nope = kv_b.shape[1] - value_dim
    rows = tokens if tokens == 1 else -(-tokens // FEW_ROWS) * FEW_ROWS
    heads_first = F.pad(q, (0, 0, 0, 0, 0, rows - tokens)).transpose(0, 1)
    absorbed = torch.cat([heads_first[..., :nope] @ kv_b[:, :nope], heads_first[..., nope:]], -1)
    query = (absorbed * width**-0.5).view(heads * rows, -1)
    peak = query.new_full((heads * rows, 1), float("-inf"), dtype=wide(q).dtype)
    mass, acc = torch.zeros_like(peak), peak.new_zeros(heads * rows, rank)
    for start in range(0, length, BLOCK_TOKENS):
        block = table[start // page : -(-min(start + BLOCK_TOKENS, length) // page)]
        keys = pages[block].flatten(0, 1)  # whole pages; what lies behind the last token may be anything
        keys[length - start :] = 0
        scores = matmul_wide(query, keys.T)
        if start + keys.shape[0] > length - tokens:
            _hide(scores.view(heads, rows, -1), length - tokens - start, length - start)
        new_peak = torch.maximum(peak, scores.amax(-1, keepdim=True))
        p, fade = scores.sub_(new_peak).exp_(), torch.exp(peak - new_peak)
        mass = mass * fade + p.sum(-1, keepdim=True)
        acc = acc * fade + matmul_wide(p.to(keys.dtype), keys[:, :rank])
        peak = new_peak
    read = (acc / mass).to(q.dtype).view(heads, rows, rank)
    return (read @ kv_b[:, nope:].transpose(1, 2)).transpose(0, 1)[:tokens]


def _hide(scores: Tensor, first: int, stop: int) -> None:
    """Hides from query t (at key ``first + t``) the keys after it, and from all the keys from ``stop`` on.

    Key 0 of the first block is never hidden, so no row is empty.
    """
    rows, keys = scores.shape[1:]
    key, row = torch.arange(keys, device=scores.device), torch.arange(rows, device=scores.device)[:, None]
    scores.masked_fill_((key > first + row) | (key >= stop), float("-inf"))
