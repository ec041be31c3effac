"""From a checkpoint in released format to a model: one table of names; what does not match it is refused by name."""

from collections.abc import Mapping
from pathlib import Path

import torch

from engine import compiled
from engine.build import build_model, is_fp32
from engine.checkpoint import Checkpoint, CheckpointError, Inventory, Progress, Shape
from engine.config import ModelConfig
from engine.device import usable
from engine.memory import require_weights
from engine.model import KimiLinear


def load_model(
    folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    compiled_kernels: bool = True,
    progress: Progress | None = None,
) -> KimiLinear:
    """Reads config.json and the checkpoint beside it; weights arrive on the device in ``dtype``, the gate's in fp32.

    compiled_kernels: see build_model. What cannot work is refused before anything large is read or taken: an unknown
    shape, a damaged file, a device that is not there, too little memory.
    """
    config, device = ModelConfig.from_folder(folder), usable(device)
    with Checkpoint(folder, device, progress) as checkpoint:
        found = checkpoint.inventory()
        check_inventory(config, found)
        require_weights(found, {name for name in found if is_fp32(name)}, device, dtype)
        return build_model(config, checkpoint, device, dtype, compiled_kernels)


def best_dtype(folder: str | Path, device: str | torch.device = "cpu") -> torch.dtype:
    """Which dtype is the fastest for the model of a folder: bfloat16 on a GPU and on CPUs that multiply it faster."""
    if torch.device(device).type != "cpu":
        return torch.bfloat16
    return compiled.best_dtype(ModelConfig.from_folder(folder))


def expected_inventory(config: ModelConfig) -> Inventory:
    """Every tensor of the checkpoint (model-spec §3.1). A_log and dt_bias are fp32, all others have config.dtype."""
    D, V = config.hidden_size, config.vocab_size
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)}
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (V, D)
    for i in range(config.num_layers):
        mixer = _kda_shapes(config) if i in config.kda_layers else _mla_shapes(config)
        layer: dict[str, Shape] = {"input_layernorm.weight": (D,), "post_attention_layernorm.weight": (D,)}
        layer |= {f"self_attn.{name}": shape for name, shape in mixer.items()} | _ffn_shapes(config, i)
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    return {name: (torch.float32 if is_fp32(name) else config.dtype, shape) for name, shape in shapes.items()}


def _kda_shapes(config: ModelConfig) -> dict[str, Shape]:
    D, C, H, K = config.hidden_size, config.kda_width, config.kda_heads, config.kda_head_dim
    shapes: dict[str, Shape] = {f"{x}_proj.weight": (C, D) for x in "qkv"}
    shapes |= {f"{x}_conv1d.weight": (C, 1, config.conv_width) for x in "qkv"}
    low = "f" if config.full_rank_gate else "fg"
    shapes |= {f"{x}_a_proj.weight": (K, D) for x in low} | {f"{x}_b_proj.weight": (C, K) for x in low}
    if config.full_rank_gate:
        shapes["g_proj.weight"] = (C, D)
    shapes |= {"A_log": (1, 1, H, 1), "dt_bias": (C,), "b_proj.weight": (H, D)}
    return shapes | {"o_norm.weight": (K,), "o_proj.weight": (D, C)}


def _mla_shapes(config: ModelConfig) -> dict[str, Shape]:
    D, h, R = config.hidden_size, config.mla_heads, config.kv_lora_rank
    return {
        "q_proj.weight": (h * (config.qk_nope_head_dim + config.qk_rope_head_dim), D),
        "kv_a_proj_with_mqa.weight": (config.latent_width, D),
        "kv_a_layernorm.weight": (R,),
        "kv_b_proj.weight": (h * (config.qk_nope_head_dim + config.v_head_dim), R),
        "o_proj.weight": (D, h * config.v_head_dim),
    }


def _ffn_shapes(config: ModelConfig, layer: int) -> dict[str, Shape]:
    D, E, inner = config.hidden_size, config.num_experts, config.moe_intermediate_size
    if not config.is_moe(layer):
        return _mlp_shapes("mlp", D, config.intermediate_size)
    moe: dict[str, Shape] = {"gate.weight": (E, D), "gate.e_score_correction_bias": (E,)}
    for e in range(E):
        moe |= {f"experts.{e}.w1.weight": (inner, D), f"experts.{e}.w3.weight": (inner, D)}
        moe |= {f"experts.{e}.w2.weight": (D, inner)}
    moe |= _mlp_shapes("shared_experts", D, inner * config.num_shared_experts)
    return {f"block_sparse_moe.{name}": shape for name, shape in moe.items()}


def _mlp_shapes(prefix: str, D: int, inner: int) -> dict[str, Shape]:
    up: dict[str, Shape] = {f"{prefix}.{x}_proj.weight": (inner, D) for x in ("gate", "up")}
    return up | {f"{prefix}.down_proj.weight": (D, inner)}


def check_inventory(config: ModelConfig, found: Mapping[str, tuple[torch.dtype, Shape]]) -> None:
    """Refuses a checkpoint with a missing or unknown tensor, a wrong shape or a wrong dtype, by name."""
    expected = expected_inventory(config)
    _refuse("missing", sorted(expected.keys() - found.keys()))
    _refuse("unknown", sorted(found.keys() - expected.keys()))
    wrong = [
        f"{name} is {found[name][0]} {list(found[name][1])}, expected {dtype} {list(shape)}"
        for name, (dtype, shape) in expected.items()
        if (found[name][0], tuple(found[name][1])) != (dtype, shape)
    ]
    _refuse("wrong", wrong)


def _refuse(what: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        raise CheckpointError(f"{what} tensors: {', '.join(names[:8])}{more}")
