"""From a checkpoint in released format to a model: one table of names; what does not match it is refused by name."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from engine.config import ModelConfig
from engine.model import Kda, KimiLinear, Layer, Mla, Mlp, Moe
from kernels import Weight

Shape = tuple[int, ...]
Inventory = dict[str, tuple[torch.dtype, Shape]]  # name: (dtype, shape)

DENSE_EXPERTS = 4  # compute all experts when there are at most this many times the chosen ones


class CheckpointError(ValueError):
    """A checkpoint that does not fit its config.json; the message names the tensors."""


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
    return {name: (torch.float32 if _is_fp32(name) else config.dtype, shape) for name, shape in shapes.items()}


def _is_fp32(name: str) -> bool:
    return name.endswith((".A_log", ".dt_bias"))


def _kda_shapes(config: ModelConfig) -> dict[str, Shape]:
    D, C, H, K = config.hidden_size, config.kda_width, config.kda_heads, config.kda_head_dim
    shapes: dict[str, Shape] = {f"{x}_proj.weight": (C, D) for x in "qkv"}
    shapes |= {f"{x}_conv1d.weight": (C, 1, config.conv_width) for x in "qkv"}
    shapes |= {f"{x}_a_proj.weight": (K, D) for x in "fg"} | {f"{x}_b_proj.weight": (C, K) for x in "fg"}
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


class Checkpoint:
    """The tensors of a folder by name: one model.safetensors, or shards behind an index."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = self.folder / "model.safetensors.index.json"
        files = (
            sorted(set(json.loads(index.read_text())["weight_map"].values()))
            if index.exists()
            else ["model.safetensors"]
        )
        for file in files:
            if not (self.folder / file).exists():
                raise CheckpointError(f"{self.folder / file} does not exist")
        self._shards = [safe_open(self.folder / file, framework="pt") for file in files]
        self._where = {name: shard for shard in self._shards for name in shard.keys()}  # noqa: SIM118

    def inventory(self) -> Inventory:
        return dict(self._headers())

    def _headers(self) -> Iterator[tuple[str, tuple[torch.dtype, Shape]]]:
        for name, shard in self._where.items():
            header = shard.get_slice(name)
            yield name, (_DTYPES.get(header.get_dtype(), torch.uint8), tuple(header.get_shape()))

    def __getitem__(self, name: str) -> Tensor:
        return self._where[name].get_tensor(name)


_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


def load_model(
    folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> KimiLinear:
    """Reads config.json and the checkpoint beside it; weights arrive on the device in ``dtype``, the gate's in fp32."""
    config, checkpoint = ModelConfig.from_folder(folder), Checkpoint(folder)
    check_inventory(config, checkpoint.inventory())
    return build_model(config, checkpoint, torch.device(device), dtype)


def build_model(
    config: ModelConfig, tensors: "Mapping[str, Tensor] | Checkpoint", device: torch.device, dtype: torch.dtype
) -> KimiLinear:
    top = _Take(tensors, "", device, dtype)
    embedding = top("model.embed_tokens.weight")
    return KimiLinear(
        config=config,
        embedding=embedding,
        layers=tuple(_layer(config, i, top.under(f"model.layers.{i}.")) for i in range(config.num_layers)),
        norm=top("model.norm.weight"),
        head=embedding if config.tie_word_embeddings else top("lm_head.weight"),
    )


@dataclass(frozen=True)
class _Take:
    """Tensors under a prefix, by name, on the device and in the dtype of the model.

    Several names are laid one under another: projections that read the same rows become one matmul.
    """

    tensors: "Mapping[str, Tensor] | Checkpoint"
    prefix: str
    device: torch.device
    dtype: torch.dtype

    def under(self, prefix: str) -> "_Take":
        return replace(self, prefix=self.prefix + prefix)

    def __call__(self, *names: str) -> Tensor:
        return torch.cat([self._one(self.prefix + name) for name in names])

    def matrix(self, *names: str) -> Weight:
        return Weight.of(self(*names))

    def _one(self, name: str) -> Tensor:
        return self.tensors[name].to(self.device, torch.float32 if _is_fp32(name) else self.dtype)


def _layer(config: ModelConfig, i: int, take: _Take) -> Layer:
    mixer, ffn = take.under("self_attn."), take.under("block_sparse_moe." if config.is_moe(i) else "mlp.")
    return Layer(
        mixer=_kda(config, mixer) if i in config.kda_layers else _mla(config, mixer),
        ffn=_moe(config, ffn) if config.is_moe(i) else _mlp(ffn),
        mixer_norm=take("input_layernorm.weight"),
        ffn_norm=take("post_attention_layernorm.weight"),
    )


def _kda(config: ModelConfig, take: _Take) -> Kda:
    conv = take(*(f"{x}_conv1d.weight" for x in "qkv")).squeeze(1)
    return Kda(
        heads=config.kda_heads,
        head_dim=config.kda_head_dim,
        eps=config.rms_norm_eps,
        inward=_pad_rows(take(*(f"{x}_proj.weight" for x in ("q", "k", "v", "f_a", "g_a", "b")))),
        conv=conv.T.contiguous().T,  # taps far apart, channels side by side: the fast path walks along channels
        f_b=take.matrix("f_b_proj.weight"),
        g_b=take.matrix("g_b_proj.weight"),
        A_log=take("A_log").flatten(),
        dt_bias=take("dt_bias"),
        o_norm=take("o_norm.weight"),
        o_proj=take.matrix("o_proj.weight"),
    )


def _pad_rows(weight: Tensor) -> Weight:
    """Zero rows up to a multiple of 16: see ModelConfig.any_threads."""
    return Weight.of(F.pad(weight, (0, 0, 0, -weight.shape[0] % 16)))


def _mla(config: ModelConfig, take: _Take) -> Mla:
    return Mla(
        heads=config.mla_heads,
        rank=config.kv_lora_rank,
        value_dim=config.v_head_dim,
        eps=config.kv_a_layernorm_eps,
        inward=take.matrix("q_proj.weight", "kv_a_proj_with_mqa.weight"),
        latent_norm=take("kv_a_layernorm.weight"),
        kv_b=take("kv_b_proj.weight").view(config.mla_heads, -1, config.kv_lora_rank),
        o_proj=take.matrix("o_proj.weight"),
    )


def _mlp(take: _Take) -> Mlp:
    return Mlp(up=take.matrix("gate_proj.weight", "up_proj.weight"), down=take.matrix("down_proj.weight"))


def _moe(config: ModelConfig, take: _Take) -> Moe:
    E, inner, D = config.num_experts, config.moe_intermediate_size, config.hidden_size
    w1, w3, w2 = (take(*(f"experts.{e}.{w}.weight" for e in range(E))) for w in ("w1", "w3", "w2"))
    w1, w3, w2 = w1.view(E, inner, D), w3.view(E, inner, D), w2.view(E, D, inner)
    shared, every = _mlp(take.under("shared_experts.")), None
    if config.num_experts <= DENSE_EXPERTS * config.num_experts_per_token:
        every = _side_by_side(w1, w3, w2, shared)
        w1, w3, w2, shared = _views(every, E, inner)
    return Moe(
        top_k=config.num_experts_per_token,
        scale=config.routed_scaling_factor,
        renormalize=config.moe_renormalize,
        bias_in_weights=config.router_bias_in_weights,
        router=take("gate.weight"),
        bias=take("gate.e_score_correction_bias"),
        w1=w1,
        w3=w3,
        w2=w2,
        shared=shared,
        every=every,
    )


def _side_by_side(w1: Tensor, w3: Tensor, w2: Tensor, shared: Mlp) -> Mlp:
    """All experts, then the shared ones, as one wide SwiGLU."""
    gate, up = shared.up.plain.chunk(2)
    down = torch.cat([w2.transpose(0, 1).flatten(1), shared.down.plain], 1)
    return Mlp(up=Weight.of(torch.cat([w1.flatten(0, 1), gate, w3.flatten(0, 1), up])), down=Weight.of(down))


def _views(every: Mlp, E: int, inner: int) -> tuple[Tensor, Tensor, Tensor, Mlp]:
    """w1, w3, w2 and the shared experts as views of the wide SwiGLU, for single tokens; nothing is stored twice."""
    gate, up = every.up.plain.chunk(2)
    routed = E * inner
    w1, w3 = (x[:routed].unflatten(0, (E, inner)) for x in (gate, up))
    w2 = every.down.plain[:, :routed].unflatten(1, (E, inner)).transpose(0, 1)
    return (
        w1,
        w3,
        w2,
        Mlp(up=Weight(torch.cat([gate[routed:], up[routed:]]), None), down=Weight(every.down.plain[:, routed:], None)),
    )
