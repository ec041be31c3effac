"""What a model is (its released config.json) and how the engine runs it. Both check themselves when they are made."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

GRID = 64  # tokens between two places where a segment may be cut; the chunk of the KDA kernels


class ConfigError(ValueError):
    """A configuration that this engine cannot run; the message names the field."""


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a Kimi Linear model. Layer numbers are 0-based here and 1-based in config.json."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    rms_norm_eps: float
    kv_a_layernorm_eps: float
    tie_word_embeddings: bool
    dtype: torch.dtype
    # KDA
    kda_layers: tuple[int, ...]
    kda_heads: int
    kda_head_dim: int
    conv_width: int
    gate_lower_bound: float | None  # of a token's log decay, in the newer models; None: it has none
    full_rank_gate: bool  # the output gate is one matrix instead of two of low rank
    # MLA
    mla_layers: tuple[int, ...]
    mla_heads: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    # MLP and MoE
    intermediate_size: int
    first_k_dense_replace: int
    num_experts: int
    num_experts_per_token: int
    num_shared_experts: int
    moe_intermediate_size: int
    moe_renormalize: bool
    routed_scaling_factor: float
    router_bias_in_weights: bool
    model_max_length: int

    def __post_init__(self) -> None:
        listed = sorted(self.kda_layers + self.mla_layers)
        if listed != list(range(self.num_layers)):
            raise ConfigError(
                "linear_attn_config: kda_layers and full_attn_layers must name each of the layers "
                f"1..{self.num_layers} once, got {[i + 1 for i in listed]}"
            )
        if not self.kda_layers or not self.mla_layers:
            raise ConfigError("linear_attn_config: at least one KDA layer and one full-attention layer are needed")
        if not 0 < self.num_experts_per_token <= self.num_experts:
            raise ConfigError(f"num_experts_per_token {self.num_experts_per_token} of num_experts {self.num_experts}")
        bound = self.gate_lower_bound
        if bound is not None and not (isinstance(bound, int | float) and -math.inf < bound < 0):
            raise ConfigError(f"gate_lower_bound is {bound!r}; a negative number bounds the decay, null does not")
        if not isinstance(self.full_rank_gate, bool):
            raise ConfigError(f"use_full_rank_gate is {self.full_rank_gate!r}; true and false are known")

    @property
    def first_gates(self) -> bool:
        """Whether KDA's gates are those of the first models: a decay without bound, an output gate of low rank."""
        return self.gate_lower_bound is None and not self.full_rank_gate

    @property
    def kda_width(self) -> int:
        """Channels of q, of k and of v: H·K."""
        return self.kda_heads * self.kda_head_dim

    @property
    def latent_width(self) -> int:
        """Numbers cached per token and MLA layer: normed latent ‖ shared key part."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def any_threads(self) -> bool:
        """Whether the bits of a reading are the same for every number of threads.

        Found by trial with MKL 2024.2: matmuls whose result is 8 or a multiple of 16 wide do not care, others do from
        three threads on.
        """
        widths = [self.vocab_size, self.hidden_size, self.kda_head_dim, self.kv_lora_rank, self.latent_width]
        widths += [self.qk_nope_head_dim, self.v_head_dim, self.intermediate_size, self.moe_intermediate_size]
        widths += [self.mla_heads * (self.qk_nope_head_dim + self.qk_rope_head_dim), self.num_experts]
        return all(width == 8 or width % 16 == 0 for width in widths)

    def is_moe(self, layer: int) -> bool:
        return layer >= self.first_k_dense_replace

    @classmethod
    def from_folder(cls, folder: str | Path) -> "ModelConfig":
        path = Path(folder) / "config.json"
        try:
            fields = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read ({error}): a model's folder has one beside its weights") from None
        try:
            return cls.from_dict(fields if isinstance(fields, dict) else {})
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "ModelConfig":
        _refuse_what_we_do_not_run(fields)
        linear = _get(fields, "linear_attn_config")
        if unknown := linear.keys() - _LINEAR:
            raise ConfigError(f"linear_attn_config: {', '.join(sorted(unknown))} is unknown to this engine")
        return cls(
            vocab_size=_get(fields, "vocab_size"),
            hidden_size=_get(fields, "hidden_size"),
            num_layers=_get(fields, "num_hidden_layers"),
            rms_norm_eps=_get(fields, "rms_norm_eps"),
            kv_a_layernorm_eps=fields.get("kv_a_layernorm_eps", 1e-6),  # the released code's class default
            tie_word_embeddings=fields.get("tie_word_embeddings", False),
            dtype=_dtype(fields),
            kda_layers=tuple(i - 1 for i in _get(linear, "kda_layers")),
            kda_heads=_get(linear, "num_heads"),
            kda_head_dim=_get(linear, "head_dim"),
            conv_width=_get(linear, "short_conv_kernel_size"),
            gate_lower_bound=linear.get("gate_lower_bound"),
            full_rank_gate=linear.get("use_full_rank_gate", False),
            mla_layers=tuple(i - 1 for i in _get(linear, "full_attn_layers")),
            mla_heads=_get(fields, "num_attention_heads"),
            kv_lora_rank=_get(fields, "kv_lora_rank"),
            qk_nope_head_dim=_get(fields, "qk_nope_head_dim"),
            qk_rope_head_dim=_get(fields, "qk_rope_head_dim"),
            v_head_dim=_get(fields, "v_head_dim"),
            intermediate_size=_get(fields, "intermediate_size"),
            first_k_dense_replace=_get(fields, "first_k_dense_replace"),
            num_experts=_get(fields, "num_experts"),
            num_experts_per_token=_get(fields, "num_experts_per_token"),
            num_shared_experts=_get(fields, "num_shared_experts"),
            moe_intermediate_size=_get(fields, "moe_intermediate_size"),
            moe_renormalize=_get(fields, "moe_renormalize"),
            routed_scaling_factor=_get(fields, "routed_scaling_factor"),
            router_bias_in_weights=fields.get("router_bias_in_weights", False),
            model_max_length=_get(fields, "model_max_length"),
        )


# field: (the value this engine runs, the value that an absent field stands for)
_FIXED: dict[str, tuple[Any, Any]] = {
    "model_type": ("kimi_linear", None),
    "hidden_act": ("silu", "silu"),
    "mla_use_nope": (True, False),
    "q_lora_rank": (None, None),
    "moe_router_activation_func": ("sigmoid", None),
    "moe_layer_freq": (1, 1),
    "num_expert_group": (1, 1),
    "topk_group": (1, 1),
    "num_nextn_predict_layers": (0, 0),
    "gate_lower_bound": (None, None),  # its place is linear_attn_config
}
_LINEAR = {"num_heads", "head_dim", "short_conv_kernel_size", "kda_layers", "full_attn_layers"}
_LINEAR |= {"gate_lower_bound", "use_full_rank_gate"}


def _refuse_what_we_do_not_run(fields: Mapping[str, Any]) -> None:
    for name, (runs, absent) in _FIXED.items():
        value = fields.get(name, absent)
        if value != runs:
            raise ConfigError(f"{name} is {value!r}; this engine runs {runs!r} only")


def _get(fields: Mapping[str, Any], name: str) -> Any:
    if fields.get(name) is None:
        raise ConfigError(f"field {name} is missing")
    return fields[name]


def _dtype(fields: Mapping[str, Any]) -> torch.dtype:
    name = fields.get("dtype", fields.get("torch_dtype", "bfloat16"))
    if name not in ("bfloat16", "float16", "float32"):
        raise ConfigError(f"dtype is {name!r}; bfloat16, float16 and float32 can be loaded")
    return getattr(torch, name)


@dataclass(frozen=True)
class EngineConfig:
    """How much the engine may hold and how it steps."""

    max_slots: int = 16  # live sequences
    max_tokens: int = 262_144  # the page pool, shared by all live sequences
    page_tokens: int = 256
    grid: int = GRID
    prefill_tokens_per_step: int = 512
    deterministic: bool = True  # the same bits in any company, wherever a reading is cut into steps: see runner.py

    def __post_init__(self) -> None:
        if self.grid != GRID:
            raise ConfigError(f"grid is {self.grid}; the KDA kernels have {GRID}")
        if self.max_slots < 1:
            raise ConfigError(f"max_slots is {self.max_slots}; at least 1 is needed")
        if self.page_tokens < 1 or 2048 % self.page_tokens:
            raise ConfigError(f"page_tokens is {self.page_tokens}; it must divide 2048, the block of the MLA kernel")
        if self.max_tokens < self.page_tokens:
            raise ConfigError(f"max_tokens is {self.max_tokens}; at least one page of {self.page_tokens} is needed")
        if self.prefill_tokens_per_step < self.grid or self.prefill_tokens_per_step % self.grid:
            raise ConfigError(
                f"prefill_tokens_per_step is {self.prefill_tokens_per_step}; not a multiple of {self.grid}"
            )

    @property
    def pages(self) -> int:
        return self.max_tokens // self.page_tokens
