"""Small random models for tests and benchmarks, in memory or as a folder in released format."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.build import build_model
from engine.config import ModelConfig
from engine.model import KimiLinear
from engine.weights import expected_inventory

TINY: dict[str, Any] = {
    "model_type": "kimi_linear",
    "dtype": "bfloat16",
    "vocab_size": 128,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "model_max_length": 1_048_576,
    "mla_use_nope": True,
    "q_lora_rank": None,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "linear_attn_config": {
        "num_heads": 2,
        "head_dim": 16,
        "short_conv_kernel_size": 4,
        "kda_layers": [1, 2, 4],
        "full_attn_layers": [3],
    },
    "num_experts": 4,
    "num_experts_per_token": 2,
    "num_shared_experts": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "moe_router_activation_func": "sigmoid",
    "moe_renormalize": True,
    "routed_scaling_factor": 1.5,
}
"""config.json of a model with every kind of layer: KDA, MLA, dense, MoE."""

SHIPPED: dict[str, Any] = TINY | {
    "vocab_size": 16384,
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "tie_word_embeddings": True,
    "kv_a_layernorm_eps": 1e-5,
    "kv_lora_rank": 96,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
    "linear_attn_config": {
        "num_heads": 4,
        "head_dim": 128,
        "short_conv_kernel_size": 4,
        "kda_layers": [1, 2, 3, 5, 6, 7],
        "full_attn_layers": [4, 8],
    },
    "num_experts": 8,
    "num_shared_experts": 2,
    "moe_intermediate_size": 128,
    "routed_scaling_factor": 1.0,
}
"""config.json of the shape that ships (docs/decisions/0001)."""

BOUNDED: dict[str, Any] = {"linear_attn_config": TINY["linear_attn_config"] | {"gate_lower_bound": -5.0}}
"""What a config.json of the newer models has otherwise: a decay with a bound (model-spec §7.1)."""

FULL_RANK: dict[str, Any] = {"linear_attn_config": BOUNDED["linear_attn_config"] | {"use_full_rank_gate": True}}
"""The same, and an output gate of one matrix."""


def random_tensors(config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """Every tensor of a checkpoint: linears N(0, 1/fan-in), norms near 1, the gate as in training (model-spec §2.2).

    A gate with a bound has slow, fast and middling channels.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = _random if config.gate_lower_bound is None else _random_with_bound
    return {name: draw(name, shape, generator).to(dtype) for name, (dtype, shape) in expected_inventory(config).items()}


def _random_with_bound(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if name.endswith("A_log"):
        return torch.empty(shape).uniform_(0.5, 2, generator=generator).log()
    if name.endswith("dt_bias"):
        return 3 * torch.randn(shape, generator=generator) - 3
    return _random(name, shape, generator)


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if name.endswith("A_log"):
        return torch.empty(shape).uniform_(1, 16, generator=generator).log()
    if name.endswith("dt_bias"):
        step = torch.empty(shape).uniform_(math.log(1e-3), math.log(1e-1), generator=generator).exp()
        return step + torch.log(-torch.expm1(-step))
    noise = torch.randn(shape, generator=generator)
    if "norm" in name:
        return 1 + 0.1 * noise
    if name.endswith("bias"):
        return 0.1 * noise
    return noise * (shape[-1] ** -0.5)


def save_sparse_checkpoint(folder: str | Path, fields: dict[str, Any], shard_bytes: int = 5_000_000_000) -> Path:
    """Shards behind an index of a model of any size, all zeros: the numbers are holes in the files, free of space."""
    folder, inventory = Path(folder), expected_inventory(ModelConfig.from_dict(fields))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields, indent=1))
    shards: list[dict[str, Any]] = [{}]
    size = 0
    for name, (dtype, shape) in inventory.items():
        count = math.prod(shape) * dtype.itemsize
        if size and size + count > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [size, size + count]}
        size += count
    weight_map: dict[str, str] = {}
    for i, header in enumerate(shards, 1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        weight_map |= dict.fromkeys(header, file)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            out.truncate(8 + len(text) + max(entry["data_offsets"][1] for entry in header.values()))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


_NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}


def tiny_model(
    seed: int = 0,
    fields: dict[str, Any] | None = None,
    compiled_kernels: bool = True,
    dtype: torch.dtype = torch.float32,
) -> KimiLinear:
    """A random model of every layer kind on the CPU; ``fields`` replaces parts of its config.json."""
    config, cpu = ModelConfig.from_dict(TINY | (fields or {})), torch.device("cpu")
    return build_model(config, random_tensors(config, seed), cpu, dtype, compiled_kernels)


def save_random_checkpoint(folder: str | Path, config: dict[str, Any] | None = None, seed: int = 0) -> Path:
    """Writes config.json and model.safetensors of a random model in released format; TINY when not told."""
    folder, fields = Path(folder), config or TINY
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields, indent=1))
    save_file(random_tensors(ModelConfig.from_dict(fields), seed), folder / "model.safetensors")
    return folder
