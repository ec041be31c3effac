"""Kimi Linear once more, straight from the formulas and the checkpoint's own names: slow, float64, no cache, no chunk.

The oracle of test_model.py. It shares with the engine nothing but the config.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import ModelConfig

Tensors = dict[str, Tensor]


def logits(config: ModelConfig, tensors: Tensors, ids: list[int]) -> Tensor:
    """[T, vocab] of one sequence from the start."""
    w = {name: x.double() for name, x in tensors.items()}
    x = w["model.embed_tokens.weight"][ids]
    for i in range(config.num_layers):
        p = f"model.layers.{i}."
        mixer = kda if i in config.kda_layers else mla
        x = x + mixer(config, w, p + "self_attn.", norm(x, w[p + "input_layernorm.weight"], config.rms_norm_eps))
        z = norm(x, w[p + "post_attention_layernorm.weight"], config.rms_norm_eps)
        x = x + (swiglu(w, p + "mlp.", z) if i < config.first_k_dense_replace else moe(config, w, p, z))
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    return norm(x, w["model.norm.weight"], config.rms_norm_eps) @ w[head].T


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def kda(config: ModelConfig, w: Tensors, p: str, u: Tensor) -> Tensor:
    T, H, K = len(u), config.kda_heads, config.kda_head_dim
    q, k, v = (
        F.silu(
            F.conv1d(
                F.pad((u @ w[f"{p}{x}_proj.weight"].T).T[None], (config.conv_width - 1, 0)),
                w[f"{p}{x}_conv1d.weight"],
                groups=H * K,
            )[0].T
        ).view(T, H, K)
        for x in "qkv"
    )
    q, k = (x / (x.pow(2).sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
    a = (u @ w[p + "f_a_proj.weight"].T @ w[p + "f_b_proj.weight"].T + w[p + "dt_bias"]).view(T, H, K)
    rate, bound = w[p + "A_log"].view(H, 1).exp(), config.gate_lower_bound
    alpha = torch.exp(-rate * torch.log(1 + a.exp()) if bound is None else bound / (1 + torch.exp(-rate * a)))
    beta = torch.sigmoid(u @ w[p + "b_proj.weight"].T)
    z = u
    for name in ("g_proj",) if config.full_rank_gate else ("g_a_proj", "g_b_proj"):
        z = z @ w[f"{p}{name}.weight"].T
    o = torch.zeros(T, H, K).double()
    for h in range(H):
        S = torch.zeros(K, K).double()
        for t in range(T):
            S = alpha[t, h][:, None] * S
            S = S + torch.outer(k[t, h], beta[t, h] * (v[t, h] - S.T @ k[t, h]))
            o[t, h] = S.T @ q[t, h] / math.sqrt(K)
    y = norm(o, w[p + "o_norm.weight"], config.rms_norm_eps) * torch.sigmoid(z.view(T, H, K))
    return y.reshape(T, H * K) @ w[p + "o_proj.weight"].T


def mla(config: ModelConfig, w: Tensors, p: str, u: Tensor) -> Tensor:
    T, h, N, R = len(u), config.mla_heads, config.qk_nope_head_dim, config.kv_lora_rank
    q = (u @ w[p + "q_proj.weight"].T).view(T, h, -1)
    latent, shared = (u @ w[p + "kv_a_proj_with_mqa.weight"].T).split([R, config.qk_rope_head_dim], -1)
    latent = norm(latent, w[p + "kv_a_layernorm.weight"], config.kv_a_layernorm_eps)
    k, v = (latent @ w[p + "kv_b_proj.weight"].T).view(T, h, -1).split([N, config.v_head_dim], -1)
    heads = []
    for i in range(h):
        scores = (q[:, i, :N] @ k[:, i].T + q[:, i, N:] @ shared.T) / math.sqrt(N + config.qk_rope_head_dim)
        heads.append(torch.softmax(scores + torch.full((T, T), -math.inf).triu(1), -1) @ v[:, i])
    return torch.cat(heads, -1) @ w[p + "o_proj.weight"].T


def swiglu(
    w: Tensors, p: str, z: Tensor, names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
) -> Tensor:
    gate, up, down = (w[f"{p}{name}.weight"] for name in names)
    return (F.silu(z @ gate.T) * (z @ up.T)) @ down.T


def moe(config: ModelConfig, w: Tensors, layer: str, z: Tensor) -> Tensor:
    p = layer + "block_sparse_moe."
    y = swiglu(w, p + "shared_experts.", z)
    scores = torch.sigmoid(z @ w[p + "gate.weight"].T)
    for t in range(len(z)):
        biased = scores[t] + w[p + "gate.e_score_correction_bias"]
        chosen = sorted(range(config.num_experts), key=lambda e: -float(biased[e]))[: config.num_experts_per_token]
        total = sum(scores[t, e] for e in chosen)
        for e in chosen:
            weight = config.routed_scaling_factor * scores[t, e] / total
            y[t] += weight * swiglu(w, f"{p}experts.{e}.", z[t], ("w1", "w3", "w2"))
    return y
