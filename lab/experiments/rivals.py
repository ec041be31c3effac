"""Three models of equal size to set against each other: the hybrid, MLA in every layer, and a GDN hybrid.

The parts are those of lab/net.py, every MLP dense. The sizes are made equal by the width of the MLPs.
"""

from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.kda import CHUNK, kda_chunk, kda_recurrence
from lab.mixers import remember
from lab.net import KDA, MLA, Net, Row, linear, matrix, read_config, short_conv

KINDS = {
    "hybrid": "KDA three times, then MLA without positions",
    "gdn": "the hybrid with Gated DeltaNet's gate: one number a head in place of one a channel",
    "mla": "MLA in every layer, with RoPE",
    "mla_nope": "MLA in every layer, without positions",
}
PERIOD = 4  # every fourth layer of a hybrid is MLA
WIDER = 16  # an MLP's width is a multiple of this


class Delta(KDA):
    """KDA that a CPU can train as well."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, row: Row) -> Tensor:
        form = remember if q.is_cuda else remember_on_cpu
        return form(q, k, v, decay, beta, self.A_log, self.dt_bias, row)


class GDN(Delta):
    """Gated DeltaNet: the same update and reading, but a head's channels forget alike (dt_bias [H])."""

    def __init__(self, config: dict):
        super().__init__(config)
        del self.f_a_proj, self.f_b_proj
        self.a_proj = matrix(self.heads, config["hidden_size"])
        self.dt_bias = nn.Parameter(self.dt_bias.detach().view(self.heads, -1)[:, 0].clone())

    def before(self, u: Tensor, place: Tensor) -> tuple[Tensor, ...]:
        weights = ((self.q_proj, self.q_conv1d), (self.k_proj, self.k_conv1d), (self.v_proj, self.v_conv1d))
        q, k, v = (short_conv(linear(u, w), c, place).view(-1, self.heads, self.dim) for w, c in weights)
        decay = linear(u, self.a_proj)[..., None].expand(-1, -1, self.dim)
        gate = linear(linear(u, self.g_a_proj), self.g_b_proj).view(-1, self.heads, self.dim)
        return q, k, v, decay, linear(u, self.b_proj), gate

    def mix(self, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, row: Row) -> Tensor:
        form = remember if q.is_cuda else remember_on_cpu
        return form(q, k, v, decay, beta, self.A_log, self.dt_bias.repeat_interleave(self.dim), row)


class RotaryMLA(MLA):
    """MLA whose shared part of the key, and of the query, turns with the token's place."""

    def __init__(self, config: dict):
        super().__init__(config)
        self.base = config["rope_theta"]

    def before(self, u: Tensor, place: Tensor) -> tuple[Tensor, ...]:
        q, k, v = super().before(u, place)
        cos, sin = angles(place, self.rest, self.base)
        return turned(q, self.nope, cos, sin), turned(k, self.nope, cos, sin), v


def angles(place: Tensor, width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine [N,1,width/2] of every place's turn, fp32."""
    speeds = base ** (-torch.arange(0, width, 2, device=place.device) / width)
    turn = (place[:, None].float() * speeds)[:, None]
    return turn.cos(), turn.sin()


def turned(x: Tensor, first: int, cos: Tensor, sin: Tensor) -> Tensor:
    """x [N,H,D] with the channels from ``first`` on rotated in pairs (i, i + half)."""
    still, a, b = x[..., :first], *x[..., first:].float().chunk(2, -1)
    return torch.cat([still, (a * cos - b * sin).to(x.dtype), (a * sin + b * cos).to(x.dtype)], -1)


class Rival(Net):
    """A model of one of KINDS. ``hidden`` gives no loads: there are no experts."""

    def __init__(self, kind: str, config: dict, dtype: torch.dtype = torch.bfloat16):
        super().__init__(config, dtype)
        for layer in self.layers:
            layer.self_attn = mixer(kind, isinstance(layer.self_attn, KDA))(config)

    def hidden(self, tokens: Tensor, row: Row) -> tuple[Tensor, Tensor]:
        x = F.embedding(tokens, self.embed_tokens).to(self.dtype)
        for layer in self.layers:
            x, nothing = layer(x, row)
        return x, nothing


def mixer(kind: str, recurrent: bool) -> type[nn.Module]:
    if recurrent:
        return GDN if kind == "gdn" else Delta
    return RotaryMLA if kind == "mla" else MLA


def rival(kind: str, size: dict, device: torch.device) -> Rival:
    """A model of that kind with as many parameters as the hybrid of that size, random weights by torch's seed."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return Rival(kind, equal(kind, size), dtype).to(device)


def equal(kind: str, size: dict) -> dict:
    """The kind's shape with the MLP width that brings it nearest to the hybrid's number of parameters."""
    wanted, found = (parameters(one, shape(one, size)) for one in ("hybrid", kind))
    each = 3 * size["width"] * size["layers"] * WIDER
    return shape(kind, size | {"inner": size["inner"] + WIDER * round((wanted - found) / each)})


def shape(kind: str, size: dict) -> dict:
    """config.json of a kind: ``size``: vocabulary, width, layers, heads, head_dim, inner (the MLP's), latent."""
    if kind not in KINDS:
        raise ValueError(f"no model of kind {kind!r}: one of {', '.join(KINDS)}")
    every = range(1, size["layers"] + 1)
    full = [n for n in every if kind.startswith("mla") or n % PERIOD == 0]
    linear_config = {"num_heads": size["heads"], "head_dim": size["head_dim"], "short_conv_kernel_size": 4}
    linear_config |= {"kda_layers": [n for n in every if n not in full], "full_attn_layers": full}
    own = {"vocab_size": size["vocabulary"], "hidden_size": size["width"], "num_hidden_layers": size["layers"]}
    own |= {"num_attention_heads": size["heads"], "num_key_value_heads": size["heads"], "tie_word_embeddings": True}
    own |= {"intermediate_size": size["inner"], "first_k_dense_replace": size["layers"], "kv_lora_rank": size["latent"]}
    return read_config(Path("lab/shape.json")) | own | {"linear_attn_config": linear_config}


def parameters(kind: str, config: dict) -> int:
    return sum(p.numel() for p in Rival(kind, config).parameters())


def rectangle(tokens: Tensor) -> Row:
    """The row of a batch [B,T] of sequences of one length."""
    return _rectangle(*tokens.shape, tokens.device)


@lru_cache(maxsize=64)
def _rectangle(batch: int, length: int, device: torch.device) -> Row:
    return Row(torch.arange(0, batch * length + 1, length, dtype=torch.int32), device)


def remember_on_cpu(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, a_log: Tensor, dt_bias: Tensor, row: Row
) -> Tensor:
    """What lab.mixers.remember gives, fp32. Sequences of equal length go side by side, as if they were heads."""
    g = -a_log.exp()[:, None] * F.softplus(decay.float() + dt_bias.view(-1, q.shape[-1]))
    q, k = unit(q) * q.shape[-1] ** -0.5, unit(k)
    sizes = row.ends.diff().tolist()
    parts = (x.split(sizes) for x in (q, k, v.float(), g, beta.float().sigmoid()))
    form = kda_recurrence if max(sizes) < CHUNK else kda_chunk
    if len(set(sizes)) == 1:
        beside = [torch.cat(part, 1) for part in parts]
        o = form(*beside, q.new_zeros(beside[0].shape[1], q.shape[2], v.shape[2]))[0]
        return torch.cat(o.split(q.shape[1], 1)).to(decay.dtype)
    blank = q.new_zeros(q.shape[1], q.shape[2], v.shape[2])
    return torch.cat([form(*part, blank)[0] for part in zip(*parts, strict=True)]).to(decay.dtype)


def unit(x: Tensor) -> Tensor:
    return x.float() * torch.rsqrt(x.float().square().sum(-1, keepdim=True) + 1e-6)


def share(step: int, steps: int, warm: int = 50, least: float = 0.02) -> float:
    """Of the full rate: up over the first steps, level to the half, then down in a line."""
    if step < warm:
        return (step + 1) / warm
    return min(1.0, max(least, 2 * (1 - step / steps)))
