"""The layers of a model on a CPU in the compiled operations: model.py's, in as few calls as a token's speed asks for.

A row's bits do not depend on the rows beside it here: batches need no padding, and sequences may share a forward.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.provenance import Tag
from engine.rows import LatentPages, StateRows
from kernels.cpu.library import library
from kernels.cpu.ops import (
    LANES,
    Experts,
    KdaInside,
    Matrix,
    MlaInside,
    Router,
    add_matmul,
    matmul,
    pack,
    rms_norm,
)

if TYPE_CHECKING:
    from engine import model as plain


def suits(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the compiled operations run this model here."""
    sizes = (config.hidden_size, config.kda_head_dim, config.kv_lora_rank, config.qk_rope_head_dim, config.v_head_dim,
             config.qk_nope_head_dim)  # fmt: skip
    fits = device.type == "cpu" and dtype == torch.float32 and all(size % LANES == 0 for size in sizes)
    return fits and library() is not None


@dataclass(frozen=True)
class Kda:
    inward: Matrix
    f_b: Matrix
    g_b: Matrix
    inside: KdaInside
    o_proj: Matrix

    @classmethod
    def of(cls, kda: "plain.Kda") -> "Kda":
        inside = KdaInside(
            kda.heads, kda.head_dim, kda.eps, kda.conv.T.contiguous(), kda.A_log, kda.dt_bias, kda.o_norm
        )
        inward, f_b, g_b, o_proj = (pack(w.plain) for w in (kda.inward, kda.f_b, kda.g_b, kda.o_proj))
        return cls(inward, f_b, g_b, inside, o_proj)

    def add(self, x: Tensor, u: Tensor, pieces: "tuple[plain.Piece, ...]", states: StateRows) -> None:
        """x [T,D] += the mixer of u [T,D]; the pieces' rows of ``states`` are advanced in place."""
        K, H = self.inside.head_dim, self.inside.heads
        C = H * K
        y = matmul(u, self.inward)
        gate, z = matmul(y[:, 3 * C : 3 * C + K], self.f_b), matmul(y[:, 3 * C + K : 3 * C + 2 * K], self.g_b)
        beta = y[:, 3 * C + 2 * K :]
        o = x.new_empty(x.shape[0], C)
        for piece in pieces:
            rows = piece.rows
            state, tail = states.get(piece.slot, piece.before)
            self.inside(y[rows], gate[rows], beta[rows], z[rows], tail, state, o[rows])
            states.tags[piece.slot] = Tag(piece.position + rows.stop - rows.start, piece.after.digest)
        add_matmul(x, o, self.o_proj)


@dataclass(frozen=True)
class Mla:
    inward: Matrix
    latent_norm: Tensor  # [R]
    eps: float
    inside: MlaInside
    o_proj: Matrix

    @classmethod
    def of(cls, mla: "plain.Mla", config: ModelConfig) -> "Mla":
        inside = MlaInside(
            mla.heads, config.qk_nope_head_dim, config.qk_rope_head_dim, mla.rank, mla.value_dim, mla.kv_b.contiguous()
        )
        return cls(pack(mla.inward.plain), mla.latent_norm, mla.eps, inside, pack(mla.o_proj.plain))

    def add(self, x: Tensor, u: Tensor, pieces: "tuple[plain.Piece, ...]", latents: LatentPages) -> None:
        """x [T,D] += the mixer of u [T,D]; the rows' latents are written into the pieces' pages, then read."""
        y, width = matmul(u, self.inward), latents.pages.shape[-1]
        latent = y[:, -width:]
        normed = latent[:, : self.inside.rank]
        rms_norm(normed, self.latent_norm, self.eps, out=normed)
        o = x.new_empty(x.shape[0], self.inside.heads * self.inside.value_dim)
        for piece in pieces:
            rows = piece.rows
            latents.put(piece.table, piece.pages, latent[rows], piece.before, piece.after.digest)
            length = piece.position + rows.stop - rows.start
            self.inside(y[rows], latents.pages, piece.pages, length, o[rows])
        add_matmul(x, o, self.o_proj)


@dataclass(frozen=True)
class Ffn:
    """Dense (no router), or a mixture."""

    router: Router | None
    experts: Experts

    @classmethod
    def of(cls, ffn: Any) -> "Ffn":
        """Of a model.Mlp or model.Moe."""
        if not hasattr(ffn, "router"):
            return cls(None, Experts.of([], _swiglu(ffn)))
        router = Router(ffn.router, ffn.bias, ffn.top_k, ffn.scale, ffn.renormalize, ffn.bias_in_weights)
        return cls(router, Experts.of(list(zip(ffn.w1, ffn.w3, ffn.w2, strict=True)), _swiglu(ffn.shared)))

    def add(self, x: Tensor, z: Tensor) -> None:
        self.experts.add(x, z, self.router(z) if self.router else None)


def _swiglu(mlp: "plain.Mlp") -> tuple[Tensor, Tensor, Tensor]:
    gate, up = mlp.up.plain.chunk(2)
    return gate, up, mlp.down.plain


@dataclass(frozen=True)
class Layer:
    mixer: Kda | Mla
    ffn: Ffn
    mixer_norm: Tensor
    ffn_norm: Tensor
    eps: float

    @classmethod
    def of(cls, layer: "plain.Layer", config: ModelConfig) -> "Layer":
        mixer = Kda.of(layer.mixer) if layer.recurrent else Mla.of(layer.mixer, config)  # type: ignore[arg-type]
        return cls(mixer, Ffn.of(layer.ffn), layer.mixer_norm, layer.ffn_norm, layer.eps)

    @property
    def recurrent(self) -> bool:
        return isinstance(self.mixer, Kda)

    def forward(self, x: Tensor, pieces: "tuple[plain.Piece, ...]", rows: StateRows | LatentPages) -> Tensor:
        """As model.Layer.forward, but x itself becomes the result."""
        self.mixer.add(x, rms_norm(x, self.mixer_norm, self.eps), pieces, rows)  # type: ignore[arg-type]
        self.ffn.add(x, rms_norm(x, self.ffn_norm, self.eps))
        return x


@dataclass(frozen=True)
class Head:
    norm: Tensor
    matrix: Matrix
    eps: float

    @classmethod
    def of(cls, head: "plain.Head") -> "Head":
        return cls(head.norm, pack(head.weight), head.eps)

    def logits(self, hidden: Tensor) -> Tensor:
        return matmul(rms_norm(hidden, self.norm, self.eps), self.matrix)
