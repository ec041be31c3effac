"""The layers of a model on a GPU in the Triton kernels: model.py's, over all pieces of a batch at once.

A batch's pieces of one row come first and take the kernels of decoding; longer ones take those of reading. Within each
a row's bits do not depend on the rows beside it, but where the fastest way does: cuBLAS's products above FEW rows,
experts of few or many rows. ``fixed`` pieces, the deterministic mode's, go one way whatever their number is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import ModelConfig
from engine.provenance import Tag
from engine.rows import LatentPages, StateRows
from kernels.gpu import moe as experts
from kernels.gpu import rows as ops
from kernels.gpu.kda_decode import kda_decode
from kernels.gpu.kda_prefill import kda_prefill
from kernels.gpu.matmul import matmul
from kernels.gpu.mla_decode import mla_decode, mla_few
from kernels.gpu.mla_prefill import mla_prefill
from kernels.gpu.packing import CHUNK, Packing
from kernels.gpu.rows import Norm

if TYPE_CHECKING:
    from engine import model as plain

FEW = ops.FEW  # rows up to which a matrix product is ours, its bits those that a row has alone
TOGETHER = min(FEW, experts.FEW_ROWS)  # sequences that may decode together without a bit telling
CAPABILITY = (8, 0)
TILE = 128  # rows of an expert in the deterministic mode
_ALIGNED = 16  # numbers; kernels are compiled anew for tables at odd places and rows of odd widths


def suits(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels run this model here."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < CAPABILITY:
        return False
    narrow = config.kda_head_dim != 128  # tried on a GPU at this width alone
    return dtype in (torch.bfloat16, torch.float16, torch.float32) and fits(config) and not narrow


def fits(config: ModelConfig) -> bool:
    """Widths that tiles of the tensor cores cover, and a router whose bias chooses only."""
    K = config.kda_head_dim
    widths = (config.hidden_size, config.kv_lora_rank, config.qk_nope_head_dim, config.qk_rope_head_dim)
    whole = all(width % 16 == 0 for width in (*widths, config.v_head_dim, config.moe_intermediate_size))
    return whole and 16 <= K <= 128 and K & (K - 1) == 0 and not config.router_bias_in_weights


@dataclass(frozen=True)
class Group:
    """The pieces of a batch that take the same kernels. All tensors are int32, on the device."""

    rows: slice
    packing: Packing
    slots: Tensor  # [n]; -1: an idle row
    tables: Tensor  # [n, pages]
    lengths: Tensor  # [n] tokens with these rows; 0: an idle row
    positions: tuple[int, ...]  # the same on the host, where there are longer pieces


@dataclass(frozen=True)
class Pieces:
    """A batch's pieces as the kernels take them: the tables of all layers, brought over by one copy."""

    all: "Sequence[plain.Piece]"
    singles: Group | None  # pieces of one row
    runs: Group | None  # longer ones
    fixed: bool = False  # the same kernels and tiles for any number of rows

    @classmethod
    def of(cls, pieces: "Sequence[plain.Piece]", device: torch.device, fixed: bool) -> "Pieces":
        """Pieces of one row first, as the runner lays them. Fixed ones are all taken as longer ones."""
        ones = 0 if fixed else sum(_count(piece) == 1 for piece in pieces)
        assert all(_count(piece) == 1 for piece in pieces[:ones]), "pieces of one row stand first in a batch"
        parts = [part for part in (pieces[:ones], pieces[ones:]) if part]
        tables = iter(_on_device([table for part in parts for table in _tables(part)], device))
        groups = [_group(part, tables) for part in parts]
        return cls(pieces, groups[0] if ones else None, groups[-1] if len(pieces) > ones else None, fixed)

    @property
    def groups(self) -> list[Group]:
        return [group for group in (self.singles, self.runs) if group]


def _count(piece: "plain.Piece") -> int:
    return piece.rows.stop - piece.rows.start


def _tables(pieces: "Sequence[plain.Piece]") -> list[list[int]]:
    """What _group takes back: starts, first chunks, sequences of chunks, slots, lengths, page tables."""
    counts = [_count(piece) for piece in pieces]
    chunks = [-(-count // CHUNK) for count in counts]
    width = _round(max(len(piece.table) for piece in pieces))
    of = chain.from_iterable([n] * count for n, count in enumerate(chunks))
    slots = [piece.slot for piece in pieces]
    tables = chain.from_iterable([*piece.table, *[0] * (width - len(piece.table))] for piece in pieces)
    return [[0, *accumulate(counts)], [0, *accumulate(chunks)], [*of], slots, [*_lengths(pieces)], [*tables]]


def _group(pieces: "Sequence[plain.Piece]", tables: Iterator[Tensor]) -> Group:
    starts, first, of, slots, lengths, pages = (next(tables) for _ in range(6))
    rows = slice(pieces[0].rows.start, pieces[-1].rows.stop)
    packing = Packing(rows.stop - rows.start, starts, first, of)
    return Group(rows, packing, slots, pages.view(len(pieces), -1), lengths, _lengths(pieces))


def _lengths(pieces: "Sequence[plain.Piece]") -> tuple[int, ...]:
    return tuple(piece.position + _count(piece) for piece in pieces)


def _on_device(tables: list[list[int]], device: torch.device) -> list[Tensor]:
    """int32, by one copy that nobody waits for."""
    room = [_round(len(table)) for table in tables]
    flat = chain.from_iterable([*table, *[0] * (size - len(table))] for table, size in zip(tables, room, strict=True))
    host = torch.tensor([*flat], dtype=torch.int32, device="cpu", pin_memory=device.type == "cuda")
    parts = host.to(device, non_blocking=True).split(room)
    return [part[: len(table)] for part, table in zip(parts, tables, strict=True)]


def _round(count: int) -> int:
    return -(-count // _ALIGNED) * _ALIGNED


def linear(x: Tensor, weight: Tensor, fixed: bool, norm: Norm | None = None, add: Tensor | None = None) -> Tensor:
    """x [T,in], or its norm, · weightᵀ, and ``add`` -> [T,out]."""
    x = ops.rms_norm(x, *norm) if norm else x
    if x.shape[0] <= FEW and not fixed:
        return ops.linear(x, weight, add)
    y = matmul(x, weight) if fixed else F.linear(x, weight)
    return y if add is None else y.add_(add)


def _mixed(parts: list[Tensor], rows: int) -> Tensor:
    """The groups' rows one after another, and zeros for rows of no piece."""
    missing = rows - sum(part.shape[0] for part in parts)
    if missing:
        parts = [*parts, parts[0].new_zeros(missing, parts[0].shape[1])]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True)
class Kda:
    heads: int
    head_dim: int
    eps: float
    inward: Tensor  # model.Kda's
    conv: Tensor  # [3C, W]
    gates: Tensor  # [2C, 2K]: f_b, then g_b, zeros beside each: a launch less is worth more than the zeros cost
    full_rank: bool  # the output gate comes from inward; gates is f_b, [C, K]
    A_log: Tensor  # [H] fp32
    dt_bias: Tensor  # [C] fp32
    lower_bound: float | None
    o_norm: Tensor  # [K]
    o_proj: Tensor  # [D, C]

    @classmethod
    def of(cls, kda: "plain.Kda") -> "Kda":
        f_b, g_b = kda.f_b.plain, kda.g_b
        gates = torch.block_diag(f_b, g_b.plain) if g_b else f_b
        matrices, rates = (kda.inward.plain, kda.conv.contiguous(), gates), (kda.A_log, kda.dt_bias, kda.lower_bound)
        return cls(kda.heads, kda.head_dim, kda.eps, *matrices, g_b is None, *rates, kda.o_norm, kda.o_proj.plain)

    def forward(self, x: Tensor, norm: Norm, pieces: Pieces, states: StateRows) -> Tensor:
        """x [T,D] -> x and what the layer adds, [T,D]. The pieces' rows of ``states`` are advanced in place."""
        raw, a, b, gate = self._projected(x, norm, pieces.fixed)
        parts = []
        for group in pieces.groups:
            mix, at = self._decode if group is pieces.singles else self._read, group.rows
            parts.append(mix(raw[at], a[at], b[at], gate[at], group, states))
        return linear(_mixed(parts, x.shape[0]), self.o_proj, pieces.fixed, add=x)

    def _projected(self, x: Tensor, norm: Norm, fixed: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows for the convolution, and the logits of decay, of beta and of the output gate."""
        C, K, H = self.heads * self.head_dim, self.head_dim, self.heads
        edges = accumulate((3 * C, K, C, H) if self.full_rank else (3 * C, 2 * K, 0, H))
        raw, low, gate, b, _ = linear(x, self.inward, fixed, norm).tensor_split([*edges], 1)
        a = linear(low, self.gates, fixed)
        return (raw, a, b, gate) if self.full_rank else (raw, a[:, :C], b, a[:, C:])

    def _decode(self, raw: Tensor, a: Tensor, b: Tensor, gate: Tensor, group: Group, states: StateRows) -> Tensor:
        rows, rates = (raw, self.conv, states.conv, a, b, gate), (self.A_log, self.dt_bias)
        pool = (states.kda, group.slots)
        return kda_decode(*rows, *rates, self.o_norm, self.eps, *pool, lower_bound=self.lower_bound)

    def _read(self, raw: Tensor, a: Tensor, b: Tensor, gate: Tensor, group: Group, states: StateRows) -> Tensor:
        H, K = self.heads, self.head_dim
        mixed = ops.short_conv(raw, self.conv, group.packing, states.conv, group.slots)
        q, k, v = (x.view(-1, H, K) for x in mixed.chunk(3, 1))
        rows, rates = (q, k, v, a.view(-1, H, K), b), (self.A_log, self.dt_bias)
        o = kda_prefill(*rows, *rates, group.packing, states.kda, group.slots, lower_bound=self.lower_bound)
        return ops.gated_rms_norm(o, gate, self.o_norm, self.eps)

    def require(self, piece: "plain.Piece", states: StateRows) -> None:
        states.require(piece.slot, piece.before)

    def tag(self, piece: "plain.Piece", states: StateRows) -> None:
        states.tags[piece.slot] = Tag(piece.position + _count(piece), piece.after.digest)


@dataclass(frozen=True)
class Mla:
    heads: int
    rank: int
    value_dim: int
    eps: float
    inward: Tensor  # [h·(N+r) + R + r, D]: q, then latent and shared key part
    latent_norm: Tensor  # [R]
    kv_b: Tensor  # [h, N+V, R]
    o_proj: Tensor  # [D, h·V]

    @classmethod
    def of(cls, mla: "plain.Mla") -> "Mla":
        weights = (mla.inward.plain, mla.latent_norm, mla.kv_b, mla.o_proj.plain)
        return cls(mla.heads, mla.rank, mla.value_dim, mla.eps, *weights)

    def forward(self, x: Tensor, norm: Norm, pieces: Pieces, latents: LatentPages) -> Tensor:
        """x [T,D] -> x and what the layer adds. The rows' latents are written into the pieces' pages, then read."""
        width = latents.pages.shape[-1]
        q, latent = linear(x, self.inward, pieces.fixed, norm).tensor_split([-width], 1)
        q = q.view(x.shape[0], self.heads, -1)
        parts = []
        for group in pieces.groups:
            tables = (latents.pages, group.tables)
            ops.put_latents(
                latent[group.rows], *tables, group.packing, group.lengths, self.latent_norm, self.eps, self.rank
            )
            weights = (self.kv_b, self.value_dim)
            if group is pieces.singles:
                o = mla_decode(q[group.rows], *tables, group.lengths, *weights)
            elif group.packing.rows <= FEW and not pieces.fixed:
                o = mla_few(q[group.rows], *tables, group.lengths, group.packing, *weights)
            else:
                o = mla_prefill(q[group.rows], *tables, group.lengths, group.packing, *weights, group.positions)
            parts.append(o.flatten(1))
        return linear(_mixed(parts, x.shape[0]), self.o_proj, pieces.fixed, add=x)

    def require(self, piece: "plain.Piece", latents: LatentPages) -> None:
        latents.require_before(piece.table, piece.before)

    def tag(self, piece: "plain.Piece", latents: LatentPages) -> None:
        after = Tag(piece.position + _count(piece), piece.after.digest)
        latents.tag(piece.table, piece.position, after)


@dataclass(frozen=True)
class Mlp:
    up: Tensor  # [2·I, D]: gate, then up
    down: Tensor  # [D, I]

    @classmethod
    def of(cls, mlp: "plain.Mlp") -> "Mlp":
        return cls(mlp.up.plain, mlp.down.plain)

    def add(self, x: Tensor, norm: Norm, fixed: bool) -> Tensor:
        return linear(ops.swiglu(linear(x, self.up, fixed, norm)), self.down, fixed, add=x)


@dataclass(frozen=True)
class Moe:
    """Routed experts, and behind them the shared ones, which every row chooses with weight 1. Made by build.py."""

    top_k: int
    scale: float
    renormalize: bool
    shared: int
    router: Tensor  # [E, D]
    bias: Tensor  # [E]
    w13: Tensor  # [E + shared, 2I, D]: gate, then up
    w2: Tensor  # [E + shared, D, I]

    def add(self, x: Tensor, norm: Norm, fixed: bool) -> Tensor:
        """In place."""
        z, indices, weights = self._route(x, norm, fixed)
        chosen = (indices, weights, self.w13, self.w2)
        if fixed:
            return experts.moe_grouped(z, *chosen, out=x, tile=TILE)
        return experts.moe(z, *chosen, out=x, shared=self.shared)

    def _route(self, x: Tensor, norm: Norm, fixed: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The normed rows, the experts of each, their weights."""
        choice = (self.bias, self.top_k, self.scale, self.renormalize, self.shared)
        if x.shape[0] > FEW or fixed:
            z = ops.rms_norm(x, *norm)
            return z, *experts.route(z, self.router, *choice)
        z, logits = ops.narrow(x, norm, self.router)
        return z, *experts.choose(logits[None], *choice)


@dataclass(frozen=True)
class Layer:
    mixer: Kda | Mla
    ffn: Mlp | Moe
    mixer_norm: Tensor
    ffn_norm: Tensor
    eps: float

    @classmethod
    def of(cls, layer: "plain.Layer") -> "Layer":
        mixer = (Kda if layer.recurrent else Mla).of(layer.mixer)  # type: ignore[arg-type]
        ffn: Any = layer.ffn
        ffn = ffn if isinstance(ffn, Moe) else Mlp.of(ffn)
        return cls(mixer, ffn, layer.mixer_norm, layer.ffn_norm, layer.eps)

    @property
    def recurrent(self) -> bool:
        return isinstance(self.mixer, Kda)

    def forward(self, x: Tensor, pieces: Pieces, rows: StateRows | LatentPages) -> Tensor:
        """As model.Layer.forward."""
        self._each(self.mixer.require, pieces, rows)
        x = self.advance(x, pieces, rows)
        self._each(self.mixer.tag, pieces, rows)
        return x

    def _each(self, say: Callable[..., None], pieces: Pieces, rows: StateRows | LatentPages) -> None:
        for piece in pieces.all:
            say(piece, rows)

    def advance(self, x: Tensor, pieces: Pieces, rows: StateRows | LatentPages) -> Tensor:
        """The numbers without the tags: what a CUDA graph holds."""
        x = self.mixer.forward(x, Norm(self.mixer_norm, self.eps), pieces, rows)  # type: ignore[arg-type]
        return self.ffn.add(x, Norm(self.ffn_norm, self.eps), pieces.fixed)


@dataclass(frozen=True)
class Head:
    norm: Tensor
    weight: Tensor  # [vocab, D]; the embedding itself when tied
    eps: float

    @classmethod
    def of(cls, head: "plain.Head") -> "Head":
        return cls(head.norm, head.weight, head.eps)

    def logits(self, hidden: Tensor, fixed: bool = False) -> Tensor:
        normed = ops.rms_norm(hidden, self.norm, self.eps)
        if hidden.shape[0] <= FEW and not fixed:
            return ops.linear(normed, self.weight, dtype=torch.float32)
        return linear(normed, self.weight, fixed).float()
