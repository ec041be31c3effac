"""From named tensors to a model: which of them go where, and which are laid together for one matmul."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine import compiled
from engine.checkpoint import Checkpoint
from engine.config import ModelConfig
from engine.model import Head, Kda, KimiLinear, Layer, Mla, Mlp, Moe
from kernels import Weight
from kernels.cpu.ops import Pack, set_threads

DENSE_EXPERTS = 4  # compute all experts when there are at most this many times the chosen ones


def is_fp32(name: str) -> bool:
    return name.endswith((".A_log", ".dt_bias"))


def build_model(
    config: ModelConfig,
    tensors: "Mapping[str, Tensor] | Checkpoint",
    device: torch.device,
    dtype: torch.dtype,
    compiled_kernels: bool = True,
) -> KimiLinear:
    """compiled_kernels: on a CPU where they were compiled; False for PyTorch's operations, whose bits differ.

    dtype: int8 is bfloat16 with the matrices in bytes; the compiled kernels alone have it (ValueError elsewhere).
    """
    compile_ = compiled_kernels and compiled.suits(config, device, dtype)
    if dtype == torch.int8 and not compile_:
        raise ValueError(
            "int8 needs the compiled CPU kernels (python -m kernels.cpu.build) and a model of widths that are "
            "multiples of 16; float32, bfloat16 and float16 run without"
        )
    weights, dtype = dtype, torch.bfloat16 if dtype == torch.int8 else dtype
    if compile_:
        set_threads(torch.get_num_threads())
    triton = _runs_triton(config, device, dtype)
    top = _Take(tensors, "", device, dtype, plain=compile_ or triton, triton=triton)
    of_layer, of_head = _forms(config, compiled.pack_for(weights) if compile_ else None, triton)
    plain = (_layer(config, i, top.under(f"model.layers.{i}.")) for i in range(config.num_layers))
    layers = tuple(map(of_layer, plain))  # one by one: a layer's tensors go when its kernels have theirs
    # An untied embedding last: the head, until it is laid out, takes the memory that this one will.
    tied = top("model.embed_tokens.weight") if config.tie_word_embeddings else None
    weight = top("lm_head.weight") if tied is None else tied
    head = of_head(Head(top("model.norm.weight"), weight, config.rms_norm_eps))
    embedding = top("model.embed_tokens.weight") if tied is None else tied
    return KimiLinear(config, embedding, layers, head, weights, compiled=compile_, triton=triton)


def _runs_triton(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> bool:
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    from engine import gpu

    return gpu.suits(config, device, dtype)


def _forms(
    config: ModelConfig, pack: Pack | None, triton: bool
) -> tuple[Callable[[Layer], Any], Callable[[Head], Any]]:
    """What the kernels make of a layer, and of the head. pack: of the compiled ones."""
    if triton:
        from engine import gpu

        return gpu.Layer.of, gpu.Head.of
    if pack:
        return lambda layer: compiled.Layer.of(layer, config, pack), lambda head: compiled.Head.of(head, pack)
    return lambda layer: layer, lambda head: head


@dataclass(frozen=True)
class _Take:
    """Tensors under a prefix, by name, on the device and in the dtype of the model.

    Several names are laid one under another: projections that read the same rows become one matmul.
    """

    tensors: "Mapping[str, Tensor] | Checkpoint"
    prefix: str
    device: torch.device
    dtype: torch.dtype
    plain: bool  # leave matrices as they are: the compiled kernels lay them out themselves
    triton: bool  # experts as those kernels have them, from the start: no second copy of most of the model

    def under(self, prefix: str) -> "_Take":
        return replace(self, prefix=self.prefix + prefix)

    def __call__(self, *names: str) -> Tensor:
        names = tuple(self.prefix + name for name in names)
        if not isinstance(self.tensors, Checkpoint):
            return torch.cat([self._one(name) for name in names])
        shapes = [self.tensors.shape(name) for name in names]
        rows = [shape[0] for shape in shapes]
        whole = self._empty(sum(rows), *shapes[0][1:], dtype=self._dtype(names[0]))
        self.tensors.read(dict(zip(names, whole.split(rows), strict=True)))
        return whole

    def experts(self, config: ModelConfig, shared: int = 0) -> tuple[Tensor, Tensor]:
        """w13 [E + shared, 2·I, D], an expert's gate above its up projection, and w2 [E + shared, D, I].

        Everything is read to where it stays; shared experts, where asked for, lie behind the others.
        """
        E, inner, D = config.num_experts, config.moe_intermediate_size, config.hidden_size
        w13 = self._empty(E + shared, 2 * inner, D, dtype=self.dtype)
        w2 = self._empty(E + shared, D, inner, dtype=self.dtype)
        places = {f"experts.{e}.w1.weight": w13[e, :inner] for e in range(E)}
        places |= {f"experts.{e}.w3.weight": w13[e, inner:] for e in range(E)}
        places |= {f"experts.{e}.w2.weight": w2[e] for e in range(E)}
        if shared:
            places["shared_experts.gate_proj.weight"] = w13[E:, :inner]
            places["shared_experts.up_proj.weight"] = w13[E:, inner:]
            places["shared_experts.down_proj.weight"] = w2[E:].transpose(0, 1)
        self._fill({self.prefix + name: place for name, place in places.items()})
        return w13, w2

    def matrix(self, *names: str) -> Weight:
        return self.laid_out(self(*names))

    def laid_out(self, matrix: Tensor) -> Weight:
        return Weight(matrix, None) if self.plain else Weight.of(matrix)

    def _one(self, name: str) -> Tensor:
        assert not isinstance(self.tensors, Checkpoint)
        return self.tensors[name].to(self.device, self._dtype(name))

    def _fill(self, places: dict[str, Tensor]) -> None:
        if isinstance(self.tensors, Checkpoint):
            return self.tensors.read(places)
        for name, place in places.items():
            place.copy_(self.tensors[name].view(place.shape))

    def _empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def _dtype(self, name: str) -> torch.dtype:
        return torch.float32 if is_fp32(name) else self.dtype


def _layer(config: ModelConfig, i: int, take: _Take) -> Layer:
    mixer, ffn = take.under("self_attn."), take.under("block_sparse_moe." if config.is_moe(i) else "mlp.")
    return Layer(
        mixer=_kda(config, mixer) if i in config.kda_layers else _mla(config, mixer),
        ffn=_moe(config, ffn) if config.is_moe(i) else _mlp(ffn),
        mixer_norm=take("input_layernorm.weight"),
        ffn_norm=take("post_attention_layernorm.weight"),
        eps=config.rms_norm_eps,
    )


def _kda(config: ModelConfig, take: _Take) -> Kda:
    conv = take(*(f"{x}_conv1d.weight" for x in "qkv")).squeeze(1)
    inward = ("q", "k", "v", "f_a", "g" if config.full_rank_gate else "g_a", "b")
    return Kda(
        heads=config.kda_heads,
        head_dim=config.kda_head_dim,
        eps=config.rms_norm_eps,
        inward=take.laid_out(_pad_rows(take(*(f"{x}_proj.weight" for x in inward)))),
        conv=conv.T.contiguous().T,  # taps far apart, channels side by side: the fast path walks along channels
        f_b=take.matrix("f_b_proj.weight"),
        g_b=None if config.full_rank_gate else take.matrix("g_b_proj.weight"),
        A_log=take("A_log").flatten(),
        dt_bias=take("dt_bias"),
        lower_bound=config.gate_lower_bound,
        o_norm=take("o_norm.weight"),
        o_proj=take.matrix("o_proj.weight"),
    )


def _pad_rows(weight: Tensor) -> Tensor:
    """Zero rows up to a multiple of 16: see ModelConfig.any_threads."""
    return F.pad(weight, (0, 0, 0, -weight.shape[0] % 16))


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


def _moe(config: ModelConfig, take: _Take) -> Any:
    if take.triton:
        from engine import gpu

        choice = (config.num_experts_per_token, config.routed_scaling_factor, config.moe_renormalize)
        router, always = (take("gate.weight"), take("gate.e_score_correction_bias")), config.num_shared_experts
        return gpu.Moe(*choice, always, *router, *take.experts(config, always))
    E, inner = config.num_experts, config.moe_intermediate_size
    w13, w2 = take.experts(config)
    w1, w3 = w13.chunk(2, 1)
    shared, every = _mlp(take.under("shared_experts.")), None
    if not take.plain and config.num_experts <= DENSE_EXPERTS * config.num_experts_per_token:
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
