"""The layers of a model on a CPU in the compiled operations: model.py's, each half of a layer in one call.

Rows, states and every vector are fp32 here. A model in bf16 has its matrices and latents in bf16, and rows are rounded
where they meet a matrix; the router, whose choice is discrete, and decoding's attention take them as they are.

A model in int8 is one in bf16 whose larger matrices are held in bytes, a scale for each row (decision 6).

A row's bits do not depend on the rows beside it here: batches need no padding, and sequences may share a forward.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import ModelConfig
from engine.provenance import Tag
from engine.rows import LatentPages, StateRows
from kernels.cpu import library as lib
from kernels.cpu.ops import LANES, PANEL, Experts, Matrix, Pack, call, matmul, pack, pack_bytes, rms_norm

if TYPE_CHECKING:
    from engine import model as plain


def suits(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the compiled operations run this model here."""
    sizes = (
        config.hidden_size,
        config.kda_head_dim,
        config.kv_lora_rank,
        config.qk_nope_head_dim,
        config.qk_rope_head_dim,
        config.v_head_dim,
    )
    known = device.type == "cpu" and dtype in (torch.float32, torch.bfloat16, torch.int8) and config.first_gates
    return known and all(size % LANES == 0 for size in sizes) and lib.library() is not None


def pack_for(dtype: torch.dtype) -> Pack:
    """How a model in this dtype has its matrices laid out."""
    return pack_bytes if dtype == torch.int8 else pack


def best_dtype(config: ModelConfig) -> torch.dtype:
    """bfloat16 where the compiled operations run this model on this CPU and are faster so."""
    runs = suits(config, torch.device("cpu"), torch.bfloat16)
    return torch.bfloat16 if runs and lib.bf16_is_faster() else torch.float32


@dataclass(frozen=True)
class Pieces:
    """A batch's pieces as the library takes them."""

    all: "Sequence[plain.Piece]"
    c: Any  # an array of lib.Piece

    @classmethod
    def of(cls, pieces: "Sequence[plain.Piece]") -> "Pieces":
        found = [
            lib.Piece(p.rows.start, p.rows.stop - p.rows.start, p.slot, p.pages.data_ptr(), p.position) for p in pieces
        ]
        return cls(pieces, (lib.Piece * len(found))(*found))


@dataclass(frozen=True)
class Kda:
    c: lib.KdaMixer
    kept: tuple[Matrix | Tensor, ...]  # alive, since ``c`` points to them

    @classmethod
    def of(cls, kda: "plain.Kda", norm: Tensor, pack: Pack) -> "Kda":
        matrices = [pack(w.plain) for w in (kda.inward, kda.f_b, kda.g_b, kda.o_proj)]  # type: ignore[union-attr]
        vectors = [x.float() for x in (norm, kda.conv.T.contiguous(), kda.A_log, kda.dt_bias, kda.o_norm)]
        at, *others = [x.data_ptr() for x in vectors]
        sizes = (kda.heads, kda.head_dim, kda.conv.shape[1])
        c = lib.KdaMixer(at, norm.numel(), *(m.c for m in matrices), *others, *sizes, kda.eps)
        return cls(c, (*matrices, *vectors))

    def add(self, x: Tensor, pieces: Pieces, states: StateRows) -> None:
        """x [T,D] += the mixer of its norm; the pieces' rows of ``states`` are advanced in place, their tags too."""
        for piece in pieces.all:
            states.require(piece.slot, piece.before)
        kda, conv = states.kda.data_ptr(), states.conv.data_ptr()
        call("kda_mixer", self.c, x.data_ptr(), x.shape[0], pieces.c, len(pieces.c), kda, conv)
        for piece in pieces.all:
            count = piece.rows.stop - piece.rows.start
            states.tags[piece.slot] = Tag(piece.position + count, piece.after.digest)


@dataclass(frozen=True)
class Mla:
    c: lib.MlaMixer
    kept: tuple[Matrix | Tensor, ...]

    @classmethod
    def of(cls, mla: "plain.Mla", norm: Tensor, eps: float, config: ModelConfig, pack: Pack) -> "Mla":
        matrices = [pack(mla.inward.plain), pack(mla.o_proj.plain)]
        vectors = [x.float() for x in (norm, mla.latent_norm, mla.kv_b.contiguous())]
        rounded = _by_pairs(mla, config.qk_nope_head_dim) if mla.kv_b.dtype == torch.bfloat16 else ()
        at, *others = [x.data_ptr() for x in vectors]
        again = [x.data_ptr() for x in rounded] or [0, 0]
        sizes = (mla.heads, config.qk_nope_head_dim, config.qk_rope_head_dim, mla.rank, mla.value_dim)
        c = lib.MlaMixer(at, norm.numel(), *(m.c for m in matrices), *others, *again, *sizes, eps, mla.eps)
        return cls(c, (*matrices, *vectors, *rounded))

    def add(self, x: Tensor, pieces: Pieces, latents: LatentPages) -> None:
        """x [T,D] += the mixer of its norm; the rows' latents are written into the pieces' pages, then read."""
        for piece in pieces.all:
            latents.require_before(piece.table, piece.before)
        pool, size = latents.pages.data_ptr(), latents.pages.shape[1]
        call("mla_mixer", self.c, x.data_ptr(), x.shape[0], pieces.c, len(pieces.c), pool, size)
        for piece in pieces.all:
            after = Tag(piece.position + piece.rows.stop - piece.rows.start, piece.after.digest)
            latents.tag(piece.table, piece.position, after)


def _by_pairs(mla: "plain.Mla", nope: int) -> tuple[Tensor, Tensor]:
    """kv_b as mla.h has `keys` and `values`."""
    keys = F.pad(mla.kv_b[:, :nope], (0, -mla.rank % PANEL)).contiguous()
    return keys, torch.cat([pack(head).data for head in mla.kv_b[:, nope:]])


@dataclass(frozen=True)
class Ffn:
    c: lib.Ffn
    kept: tuple[Any, ...]

    @classmethod
    def of(cls, ffn: Any, norm: Tensor, eps: float, pack: Pack) -> "Ffn":
        """Of a model.Mlp or model.Moe."""
        norm = norm.float()
        if not hasattr(ffn, "router"):
            experts = Experts.of([], _swiglu(ffn), pack)
            return cls(lib.Ffn(norm.data_ptr(), norm.numel(), None, None, _first(experts), eps=eps), (norm, experts))
        experts = Experts.of(list(zip(ffn.w1, ffn.w3, ffn.w2, strict=True)), _swiglu(ffn.shared), pack)
        router = ffn.router.float(), ffn.bias.float()
        choice = (experts.routed, ffn.top_k, ffn.renormalize, ffn.bias_in_weights, ffn.scale)
        at = [x.data_ptr() for x in router]
        return cls(lib.Ffn(norm.data_ptr(), norm.numel(), *at, _first(experts), *choice, eps), (norm, experts, *router))

    def add(self, x: Tensor) -> None:
        call("ffn", self.c, x.data_ptr(), x.shape[0])


def _first(experts: Experts) -> Any:
    return ctypes.cast(experts.c, ctypes.POINTER(lib.Expert))


def _swiglu(mlp: "plain.Mlp") -> tuple[Tensor, Tensor, Tensor]:
    gate, up = mlp.up.plain.chunk(2)
    return gate, up, mlp.down.plain


@dataclass(frozen=True)
class Layer:
    mixer: Kda | Mla
    ffn: Ffn

    @classmethod
    def of(cls, layer: "plain.Layer", config: ModelConfig, pack: Pack) -> "Layer":
        ffn = Ffn.of(layer.ffn, layer.ffn_norm, layer.eps, pack)
        if layer.recurrent:
            return cls(Kda.of(layer.mixer, layer.mixer_norm, pack), ffn)  # type: ignore[arg-type]
        return cls(Mla.of(layer.mixer, layer.mixer_norm, layer.eps, config, pack), ffn)  # type: ignore[arg-type]

    @property
    def recurrent(self) -> bool:
        return isinstance(self.mixer, Kda)

    def forward(self, x: Tensor, pieces: Pieces, rows: StateRows | LatentPages) -> Tensor:
        """As model.Layer.forward, but x itself becomes the result."""
        self.mixer.add(x, pieces, rows)  # type: ignore[arg-type]
        self.ffn.add(x)
        return x


@dataclass(frozen=True)
class Head:
    norm: Tensor
    matrix: Matrix
    eps: float

    @classmethod
    def of(cls, head: "plain.Head", pack: Pack) -> "Head":
        return cls(head.norm.float(), pack(head.weight), head.eps)

    def logits(self, hidden: Tensor) -> Tensor:
        return matmul(rms_norm(hidden, self.norm, self.eps), self.matrix)
