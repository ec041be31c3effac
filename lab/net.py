"""The training model: Kimi Linear, a whole batch as one row of tokens with sequence boundaries.

Parameters carry the names of the released checkpoint; the experts of a layer are one stacked tensor (the shared ones
last), and every expert is computed for every token: at this size that is cheaper than sorting tokens.
"""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.mixers import attend, remember


def read_config(path: Path) -> dict:
    return json.loads(Path(path).read_text())


class Row:
    """Where the sequences of a batch begin, on the device: cumulative lengths, each token's place in its sequence.

    ``ends`` [sequences + 1] int32 lies on the host, so that a step waits for nothing that is still being computed.
    """

    def __init__(self, ends: Tensor, device: torch.device | str):
        lengths = ends.diff().tolist()
        self.ends, self.longest = ends.to(device, non_blocking=True), max(lengths)
        at = torch.arange(sum(lengths), device=device, dtype=ends.dtype)
        self.place = (at - self.ends[torch.searchsorted(self.ends, at, right=True) - 1]).int()
        if self.ends.is_cuda:
            from kernels.gpu.packing import Packing

            self.packing = Packing.of(lengths, device)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight.to(x.dtype))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    y = x.float()
    return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


def short_conv(x: Tensor, weight: Tensor, place: Tensor) -> Tensor:
    """Causal convolution of width 4 that begins anew with each sequence, then SiLU."""
    padded = F.pad(x, (0, 0, 3, 0))
    y = x.float() * weight[:, 3]
    for back in (1, 2, 3):
        earlier = padded[3 - back : 3 - back + x.shape[0]].float()
        y = y + torch.where((place >= back)[:, None], earlier * weight[:, 3 - back], 0.0)
    return F.silu(y).to(x.dtype)


def rotated(x: Tensor, place: Tensor, theta: float) -> Tensor:
    """x [N, H, D] turned by its place in the sequence, in pairs (i, i + D/2): RoPE."""
    half = x.shape[-1] // 2
    speed = theta ** (-torch.arange(half, device=x.device) / half)
    angle = (place[:, None] * speed)[:, None]
    a, b = x.float().split(half, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1).to(x.dtype)


def matrix(rows: int, columns: int, scale: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, columns) * 0.02 * scale)


GATES = {"sigmoid": torch.sigmoid, "swish": F.silu, "none": None}  # of KDA's output; the released model's is the first


class KDA(nn.Module):
    """``linear_attn_config`` may name another ``output_gate`` of GATES, and a ``short_conv_kernel_size`` of 0: none."""

    def __init__(self, config: dict):
        super().__init__()
        linear_config = config["linear_attn_config"]
        self.heads, self.dim, width = linear_config["num_heads"], linear_config["head_dim"], config["hidden_size"]
        self.eps = config["rms_norm_eps"]
        inner = self.heads * self.dim
        self.q_proj, self.k_proj, self.v_proj = (matrix(inner, width) for _ in range(3))
        self.conv = linear_config.get("short_conv_kernel_size", 4) > 0
        if self.conv:
            self.q_conv1d, self.k_conv1d, self.v_conv1d = (nn.Parameter(conv_start(inner)) for _ in range(3))
        self.A_log = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
        step = torch.exp(torch.empty(inner).uniform_(math.log(1e-3), math.log(1e-1))).clamp(min=1e-4)
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))
        self.f_a_proj, self.f_b_proj = matrix(self.dim, width), matrix(inner, self.dim)
        self.gate = GATES[linear_config.get("output_gate", "sigmoid")]
        if self.gate:
            self.g_a_proj, self.g_b_proj = matrix(self.dim, width), matrix(inner, self.dim)
        self.b_proj = matrix(self.heads, width)
        self.o_norm = nn.Parameter(torch.ones(self.dim))
        self.o_proj = matrix(width, inner, (2 * config["num_hidden_layers"]) ** -0.5)

    def before(self, u: Tensor, place: Tensor) -> tuple[Tensor | None, ...]:
        """(q, k, v, logits of the decay, of beta, of the output gate or None)."""

        def split(x):
            return x.view(-1, self.heads, self.dim)

        q, k, v = (linear(u, weight) for weight in (self.q_proj, self.k_proj, self.v_proj))
        if self.conv:
            q, k = short_conv(q, self.q_conv1d, place), short_conv(k, self.k_conv1d, place)
            v = short_conv(v, self.v_conv1d, place)
        else:
            q, k, v = F.silu(q), F.silu(k), F.silu(v)
        decay = linear(linear(u, self.f_a_proj), self.f_b_proj)
        gate = split(linear(linear(u, self.g_a_proj), self.g_b_proj)) if self.gate else None
        return split(q), split(k), split(v), split(decay), linear(u, self.b_proj), gate

    def after(self, o: Tensor, gate: Tensor | None) -> Tensor:
        y = rms_norm(o.float(), self.o_norm, self.eps)
        if gate is not None:
            y = y * self.gate(gate.float())
        return linear(y.flatten(1).to(o.dtype), self.o_proj)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, row: Row) -> Tensor:
        return remember(q, k, v, decay, beta, self.A_log, self.dt_bias, row)


def conv_start(channels: int) -> Tensor:
    """Mostly the current token."""
    weight = torch.randn(channels, 4) * 0.1
    weight[:, 3] += 0.5
    return weight


class MLA(nn.Module):
    """Without positions, as released; with ``mla_use_nope`` false the shared part of query and key is turned (RoPE)."""

    def __init__(self, config: dict):
        super().__init__()
        self.heads, width = config["num_attention_heads"], config["hidden_size"]
        self.nope, self.rest, self.value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
        self.rank, self.eps = config["kv_lora_rank"], config["kv_a_layernorm_eps"]
        self.theta = None if config.get("mla_use_nope", True) else config["rope_theta"]
        self.q_proj = matrix(self.heads * (self.nope + self.rest), width)
        self.kv_a_proj_with_mqa = matrix(self.rank + self.rest, width)
        self.kv_a_layernorm = nn.Parameter(torch.ones(self.rank))
        self.kv_b_proj = matrix(self.heads * (self.nope + self.value), self.rank)
        self.o_proj = matrix(width, self.heads * self.value, (2 * config["num_hidden_layers"]) ** -0.5)

    def before(self, u: Tensor, place: Tensor) -> tuple[Tensor, ...]:
        q = linear(u, self.q_proj).view(-1, self.heads, self.nope + self.rest)
        latent, shared = linear(u, self.kv_a_proj_with_mqa).split([self.rank, self.rest], -1)
        expanded = linear(rms_norm(latent, self.kv_a_layernorm, self.eps), self.kv_b_proj)
        shared = shared[:, None]
        if self.theta:
            still, turning = q.split([self.nope, self.rest], -1)
            q, shared = torch.cat([still, rotated(turning, place, self.theta)], -1), rotated(shared, place, self.theta)
        key, value = expanded.view(-1, self.heads, self.nope + self.value).split([self.nope, self.value], -1)
        key = torch.cat([key, shared.expand(-1, self.heads, -1)], -1)
        return q.contiguous(), key.contiguous(), F.pad(value, (0, q.shape[-1] - self.value)).contiguous()

    def after(self, o: Tensor) -> Tensor:
        return linear(o[..., : self.value].flatten(1), self.o_proj)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, row: Row) -> Tensor:
        return attend(q, k, v, row)


class Dense(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        width, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj, self.up_proj = matrix(inner, width), matrix(inner, width)
        self.down_proj = matrix(width, inner, (2 * config["num_hidden_layers"]) ** -0.5)

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return linear(F.silu(linear(u, self.gate_proj)) * linear(u, self.up_proj), self.down_proj), u.new_zeros(0)


class Experts(nn.Module):
    """Two of the routed experts by a sigmoid router, and the shared ones, as one wide SwiGLU."""

    def __init__(self, config: dict):
        super().__init__()
        self.count, self.shared, self.inner = (
            config["num_experts"],
            config["num_shared_experts"],
            config["moe_intermediate_size"],
        )
        width, rows = config["hidden_size"], (self.count + self.shared) * self.inner
        self.gate = matrix(self.count, width)
        self.register_buffer("bias", torch.zeros(self.count))
        self.w1, self.w3 = matrix(rows, width), matrix(rows, width)
        self.w2 = nn.Parameter(torch.randn(width, rows) * 0.02 * (2 * config["num_hidden_layers"]) ** -0.5)

    def weights(self, u: Tensor) -> tuple[Tensor, Tensor]:
        scores = F.linear(u.float(), self.gate).sigmoid()
        biased = (scores + self.bias).detach()
        first = biased.amax(-1, keepdim=True)
        second = biased.masked_fill(biased >= first, -9.0).amax(-1, keepdim=True)
        chosen = biased >= second
        picked = torch.where(chosen, scores, 0.0)
        return picked / (picked.sum(-1, keepdim=True) + 1e-20), chosen.float().mean(0)

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        routed, load = self.weights(u)
        every = F.pad(routed, (0, self.shared), value=1.0).to(u.dtype)
        hidden = F.silu(linear(u, self.w1)) * linear(u, self.w3)
        hidden = hidden.view(len(u), -1, self.inner) * every[..., None]
        return linear(hidden.flatten(1), self.w2), load


class Layer(nn.Module):
    def __init__(self, config: dict, index: int):
        super().__init__()
        kda = index + 1 in config["linear_attn_config"]["kda_layers"]
        self.eps = config["rms_norm_eps"]
        self.input_layernorm = nn.Parameter(torch.ones(config["hidden_size"]))
        self.self_attn = KDA(config) if kda else MLA(config)
        self.post_attention_layernorm = nn.Parameter(torch.ones(config["hidden_size"]))
        self.mlp = Dense(config) if index < config["first_k_dense_replace"] else Experts(config)

    def before(self, x: Tensor, place: Tensor) -> tuple[Tensor, ...]:
        return self.self_attn.before(rms_norm(x, self.input_layernorm, self.eps), place)

    def after(self, x: Tensor, *mixed: Tensor) -> tuple[Tensor, Tensor]:
        x = x + self.self_attn.after(*mixed)
        y, load = self.mlp(rms_norm(x, self.post_attention_layernorm, self.eps))
        return x + y, load

    def forward(self, x: Tensor, row: Row) -> tuple[Tensor, Tensor]:
        parts = self.before(x, row.place)
        if isinstance(self.self_attn, KDA):
            *parts, gate = parts
            return self.after(x, self.self_attn.mix(*parts, row), gate)
        return self.after(x, self.self_attn.mix(*parts, row))


class Net(nn.Module):
    def __init__(self, config: dict, dtype: torch.dtype = torch.bfloat16):
        super().__init__()
        self.config, self.dtype = config, dtype
        self.embed_tokens = matrix(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config["num_hidden_layers"]))
        self.norm = nn.Parameter(torch.ones(config["hidden_size"]))
        if not config["tie_word_embeddings"]:
            self.lm_head = matrix(config["vocab_size"], config["hidden_size"])

    def hidden(self, tokens: Tensor, row: Row) -> tuple[Tensor, Tensor]:
        """(last hidden states, load of every expert of every layer)."""
        x = F.embedding(tokens, self.embed_tokens).to(self.dtype)
        loads = []
        for layer in self.layers:
            x, load = layer(x, row)
            loads.append(load)
        return x, torch.stack([load for load in loads if len(load)])

    def logits(self, x: Tensor) -> Tensor:
        head = self.embed_tokens if self.config["tie_word_embeddings"] else self.lm_head
        return linear(rms_norm(x, self.norm, self.config["rms_norm_eps"]), head)

    def losses(self, x: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of every token, fp32."""
        return F.cross_entropy(self.logits(x).float(), targets, reduction="none")

    def gradients(self, tokens: Tensor, targets: Tensor, weights: Tensor, row: Row) -> tuple[Tensor, Tensor]:
        """Adds the gradients of the weighted mean loss; (every token's loss, loads)."""
        x, loads = self.hidden(tokens, row)
        losses = self.losses(x, targets)
        (losses * weights).sum().div(weights.sum()).backward()
        return losses.detach(), loads.detach()

    @torch.no_grad()
    def balance(self, loads: Tensor, rate: float) -> None:
        """Nudge the router's bias towards the experts that are called too seldom; no loss of its own."""
        experts = [layer.mlp for layer in self.layers if isinstance(layer.mlp, Experts)]
        steps = rate * torch.sign(loads.mean(-1, keepdim=True) - loads)
        for mlp, step in zip(experts, steps, strict=True):
            mlp.bias += step - step.mean()


def compile_parts() -> None:
    """Fuse what lies between the two mixing kernels."""
    for owner, name in ((Layer, "before"), (Layer, "after"), (Net, "losses")):
        setattr(owner, name, torch.compile(getattr(owner, name), dynamic=False))
