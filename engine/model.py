"""Kimi Linear, whole: token ids to logits, top to bottom.

Every layer is ``x + mixer(norm(x))`` then ``x + ffn(norm(x))``; the mixer is KDA or MLA, the ffn dense or MoE. A
forward runs a packed batch: the rows of several sequences one after another, each with its own piece of state. What
works row by row runs on all rows at once; what looks back (convolution, recurrence, attention) runs piece by piece.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine import compiled
from engine.config import ModelConfig
from engine.pools import Pools
from engine.provenance import Tag
from engine.rows import LatentPages, StateRows
from kernels import (
    Weight,
    gated_rms_norm,
    kda_chunk,
    kda_gate,
    kda_step,
    l2_norm,
    linear,
    mla_absorbed,
    moe,
    rms_norm,
    route,
    short_conv,
    sigmoid,
    silu,
    weigh_experts,
)

if TYPE_CHECKING:
    from engine import gpu


@dataclass(frozen=True)
class Piece:
    """The rows of one sequence in a batch, where its state lives, and what that state says before and after."""

    rows: slice
    slot: int  # KDA and convolution state
    table: Sequence[int]  # page numbers, in order, that cover before.position + rows
    pages: Tensor  # [n] the same on the device
    before: Tag  # tokens read before these rows
    after: Tag

    @property
    def position(self) -> int:
        return self.before.position


@dataclass(frozen=True)
class Batch:
    ids: Tensor  # [T] int64; rows that belong to no piece are padding
    pieces: tuple[Piece, ...]
    fixed: bool = False  # by gpu.py: no row's bits depend on the others, at some cost


@dataclass(frozen=True)
class Kda:
    """One KDA mixer. H heads of K channels, C = H·K."""

    heads: int
    head_dim: int
    eps: float
    inward: Weight  # [3C + K + K + H, D] and padding: q, k, v, f_a, g_a, b; without g_b [3C + K + C + H, D]
    conv: Tensor  # [3C, W]
    f_b: Weight  # [C, K]
    g_b: Weight | None  # [C, K]; None: the output gate is of full rank, and comes from inward
    A_log: Tensor  # [H] fp32
    dt_bias: Tensor  # [C] fp32
    lower_bound: float | None  # see kda_gate
    o_norm: Tensor  # [K]
    o_proj: Weight  # [D, C]

    def forward(self, u: Tensor, pieces: tuple[Piece, ...], states: StateRows) -> Tensor:
        """u [T,D] -> [T,D]. The pieces' rows of ``states`` are advanced in place, and their tags with them."""
        C, K, H = self.heads * self.head_dim, self.head_dim, self.heads
        edges = accumulate((3 * C, K, K if self.g_b else C, H))
        raw, f, z, b, _ = self.inward(u).tensor_split([*edges], -1)
        g = kda_gate(self.f_b(f), self.A_log, self.dt_bias, self.lower_bound)
        beta = sigmoid(b.float())
        o = u.new_zeros(u.shape[0], H, K, dtype=states.kda.dtype)
        for piece in pieces:
            rows = piece.rows
            state, tail = states.get(piece.slot, piece.before)
            mixed, tail = short_conv(raw[rows], self.conv, tail)
            qk = l2_norm(mixed[:, : 2 * C].view(-1, 2, H, K))
            v = mixed[:, 2 * C :].view(-1, H, K).float()
            o[rows], state = _kda(qk[:, 0] * K**-0.5, qk[:, 1], v, g[rows], beta[rows], state)
            states.put(piece.slot, state, tail, Tag(piece.position + v.shape[0], piece.after.digest))
        gate = (self.g_b(z) if self.g_b else z).view(-1, H, K)
        return self.o_proj(gated_rms_norm(o, gate, self.o_norm, self.eps).view(-1, C))


def _kda(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token by the recurrence, more by chunks: which one depends on the number of rows alone."""
    if q.shape[0] > 1:
        return kda_chunk(q, k, v, g, beta, state)
    o, state = kda_step(q[0], k[0], v[0], g[0], beta[0], state)
    return o[None], state


@dataclass(frozen=True)
class Mla:
    """One MLA mixer without positions. h heads; a token leaves R + r numbers behind."""

    heads: int
    rank: int
    value_dim: int
    eps: float
    inward: Weight  # [h·(N+r) + R + r, D]: q, then latent and shared key part
    latent_norm: Tensor  # [R]
    kv_b: Tensor  # [h, N+V, R]
    o_proj: Weight  # [D, h·V]

    def forward(self, u: Tensor, pieces: tuple[Piece, ...], latents: LatentPages) -> Tensor:
        """u [T,D] -> [T,D]. The rows' latents are written into the pieces' pages, and their tags; then read."""
        pages = latents.pages
        width = pages.shape[-1]
        q, latent = self.inward(u).tensor_split([-width], -1)
        q = q.reshape(u.shape[0], self.heads, -1)
        latent = torch.cat([rms_norm(latent[:, : self.rank], self.latent_norm, self.eps), latent[:, self.rank :]], -1)
        o = u.new_zeros(u.shape[0], self.heads, self.value_dim)
        for piece in pieces:
            rows, count = piece.rows, piece.rows.stop - piece.rows.start
            latents.put(piece.table, piece.pages, latent[rows], piece.before, piece.after.digest)
            o[rows] = mla_absorbed(q[rows], pages, piece.pages, piece.position + count, self.kv_b, self.value_dim)
        return self.o_proj(o.view(u.shape[0], -1))


@dataclass(frozen=True)
class Mlp:
    """SwiGLU."""

    up: Weight  # [2·I, D]: gate, then up
    down: Weight  # [D, I]

    def forward(self, z: Tensor) -> Tensor:
        return self.down(self.hidden(z))

    def hidden(self, z: Tensor) -> Tensor:
        gate, value = self.up(z).chunk(2, -1)
        return silu(gate).mul_(value)


@dataclass(frozen=True)
class Moe:
    """Routed experts and the shared ones, which see every token."""

    top_k: int
    scale: float
    renormalize: bool
    bias_in_weights: bool
    router: Tensor  # [E, D]
    bias: Tensor  # [E]
    w1: Tensor  # [E, I, D] gate
    w3: Tensor  # [E, I, D] up
    w2: Tensor  # [E, D, I] down
    shared: Mlp
    every: Mlp | None  # experts and shared experts side by side, when few enough to compute them all

    def forward(self, z: Tensor) -> Tensor:
        indices, weights = route(
            z, self.router, self.bias, self.top_k, self.scale, self.renormalize, self.bias_in_weights
        )
        if self.every is not None and z.shape[0] > 1:
            experts, inner = self.w1.shape[:2]
            hidden = self.every.hidden(z)
            weigh_experts(hidden[:, : experts * inner], indices, weights, experts)
            return self.every.down(hidden)
        return moe(z, indices, weights, self.w1, self.w3, self.w2) + self.shared.forward(z)


@dataclass(frozen=True)
class Layer:
    mixer: Kda | Mla
    ffn: Mlp | Moe
    mixer_norm: Tensor  # input_layernorm
    ffn_norm: Tensor  # post_attention_layernorm
    eps: float

    @property
    def recurrent(self) -> bool:
        return isinstance(self.mixer, Kda)

    def forward(self, x: Tensor, pieces: tuple[Piece, ...], rows: StateRows | LatentPages) -> Tensor:
        """x [T,D] -> [T,D]; ``rows``: this layer's part of the pools."""
        x = x + self.mixer.forward(rms_norm(x, self.mixer_norm, self.eps), pieces, rows)  # type: ignore[arg-type]
        return x + self.ffn.forward(rms_norm(x, self.ffn_norm, self.eps))


@dataclass(frozen=True)
class Head:
    norm: Tensor  # [D]
    weight: Tensor  # [vocab, D]; the embedding itself when tied
    eps: float

    def logits(self, hidden: Tensor) -> Tensor:
        return linear(rms_norm(hidden, self.norm, self.eps), self.weight).float()


@dataclass(frozen=True)
class KimiLinear:
    config: ModelConfig
    embedding: Tensor  # [vocab, D]
    layers: "tuple[Layer | compiled.Layer | gpu.Layer, ...]"
    head: "Head | compiled.Head | gpu.Head"
    weights: torch.dtype  # of the matrices; int8: all else is as in bfloat16
    compiled: bool  # the layers are those of compiled.py
    triton: bool = False  # the layers are those of gpu.py

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @property
    def tail_dtype(self) -> torch.dtype:
        """Of what a convolution keeps: rows that have met a matrix."""
        return torch.float32 if self.compiled else self.dtype

    def forward(self, batch: Batch, pools: Pools) -> Tensor:
        """Runs the batch's rows and advances every state in ``pools`` -> hidden rows [T,D] before the last norm."""
        x = self.embedding[batch.ids]
        x = x.float() if self.compiled else x
        states, pages = iter(pools.states), iter(pools.pages)
        pieces = self._pieces(batch)
        for layer in self.layers:
            x = layer.forward(x, pieces, next(states) if layer.recurrent else next(pages))
        return x

    def _pieces(self, batch: Batch) -> Any:
        """As the layers take them."""
        if self.triton:
            from engine import gpu  # needs triton

            return gpu.Pieces.of(batch.pieces, self.device, batch.fixed)
        return compiled.Pieces.of(batch.pieces) if self.compiled else batch.pieces

    def logits(self, hidden: Tensor, fixed: bool = False) -> Tensor:
        """hidden [n,D] -> [n,vocab] fp32. fixed: see Batch."""
        return self.head.logits(hidden, fixed) if self.triton else self.head.logits(hidden)  # type: ignore[call-arg]
