"""Multi-head latent attention without positions: the definition, and the absorbed form over a paged latent cache."""

import torch
from torch import Tensor

from kernels.norm import wide

BLOCK_TOKENS = 2048  # keys looked at together; block edges lie at multiples of it from the start of the sequence


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
    tokens, heads, width = q.shape
    rank, page = kv_b.shape[2], pages.shape[1]
    nope = kv_b.shape[1] - value_dim
    heads_first = q.transpose(0, 1)
    absorbed = torch.cat([heads_first[..., :nope] @ kv_b[:, :nope], heads_first[..., nope:]], -1)
    query = (absorbed * width**-0.5).reshape(heads * tokens, -1)
    first = length - tokens
    peak = query.new_full((heads * tokens, 1), float("-inf"), dtype=wide(q).dtype)
    mass, acc = torch.zeros_like(peak), peak.new_zeros(heads * tokens, rank)
    for start in range(0, length, BLOCK_TOKENS):
        stop = min(start + BLOCK_TOKENS, length)
        keys = pages[table[start // page : -(-stop // page)]].flatten(0, 1)[: stop - start]
        scores = wide(query @ keys.T)
        if stop > first + 1:
            _hide_future(scores.view(heads, tokens, -1), start - first)
        new_peak = torch.maximum(peak, scores.amax(-1, keepdim=True))
        p, fade = scores.sub_(new_peak).exp_(), torch.exp(peak - new_peak)
        mass = mass * fade + p.sum(-1, keepdim=True)
        acc = acc * fade + p.to(keys.dtype) @ keys[:, :rank]
        peak = new_peak
    read = (acc / mass).to(q.dtype).view(heads, tokens, rank)
    return (read @ kv_b[:, nope:].transpose(1, 2)).transpose(0, 1)


def _hide_future(scores: Tensor, offset: int) -> None:
    """Hides key s of query t where ``s + offset > t``. Key 0 of the first block is never hidden, so no row is empty."""
    tokens, keys = scores.shape[1:]
    row = torch.arange(tokens, device=scores.device)[:, None]
    scores.masked_fill_(torch.arange(keys, device=scores.device)[None] + offset > row, float("-inf"))
