"""KDA decode, H=32, K=V=128, bf16 inputs, fp32 states in a pool: one launch beside flash-linear-attention."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.h200.measuring import Case
from kernels.gpu.kda_decode import kda_decode

HEADS, WIDTH, TAPS, EPS = 32, 128, 4, 1e-5
CHANNELS = HEADS * WIDTH
LAYERS = 20
FLOPS = 7 * WIDTH * WIDTH  # decay, two reads, write; a row and head
BYTES = HEADS * (2 * 4 * WIDTH * WIDTH) + 2 * CHANNELS * (
    3 + 2 * 3 * (TAPS - 1) + 1 + 1 + 1
)  # a row: states and inputs


@dataclass(frozen=True)
class Inputs:
    """Of one layer; a token's numbers at the sizes that a model has."""

    raw: Tensor
    conv_weight: Tensor
    conv_pool: Tensor
    a: Tensor
    b: Tensor
    z: Tensor
    A_log: Tensor
    dt_bias: Tensor
    o_norm: Tensor
    pool: Tensor
    slots: Tensor

    @classmethod
    def make(cls, batch: int) -> "Inputs":
        def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
            return torch.randn(shape, device="cuda", dtype=dtype)

        step = torch.empty(CHANNELS, device="cuda").uniform_(1e-3, 1e-1)
        return cls(
            normal(batch, 3 * CHANNELS), normal(3 * CHANNELS, TAPS) / 2, normal(batch, TAPS - 1, 3 * CHANNELS),
            normal(batch, CHANNELS), normal(batch, HEADS), normal(batch, CHANNELS),
            torch.empty(HEADS, device="cuda").uniform_(1, 16).log(), step + torch.log(-torch.expm1(-step)),
            1 + normal(WIDTH) / 8, normal(batch, HEADS, WIDTH, WIDTH, dtype=torch.float32) / 8,
            torch.randperm(batch, device="cuda").to(torch.int32),
        )  # fmt: skip

    def ours(self) -> Tensor:
        rest = (self.A_log, self.dt_bias, self.o_norm, EPS, self.pool, self.slots)
        return kda_decode(self.raw, self.conv_weight, self.conv_pool, self.a, self.b, self.z, *rest)

    def defined(self) -> tuple[Tensor, Tensor]:
        """(y, the new states in the pool's order) in float64, written out for a whole batch at once."""
        d = {name: x.double() for name, x in vars(self).items()}
        slots = self.slots.long()
        window = torch.cat([d["conv_pool"][slots], d["raw"][:, None]], 1)
        mixed = F.silu((window * d["conv_weight"].T).sum(1)).view(-1, 3, HEADS, WIDTH)
        q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in mixed[:, :2].unbind(1))
        decay = torch.exp(-d["A_log"].exp()[:, None] * F.softplus(d["a"] + d["dt_bias"]).view(-1, HEADS, WIDTH))
        state = d["pool"][slots] * decay[..., None]
        error = mixed[:, 2] - torch.einsum("bhkv,bhk->bhv", state, k)
        state += k[..., None] * (torch.sigmoid(d["b"])[..., None] * error)[..., None, :]
        o = torch.einsum("bhkv,bhk->bhv", state, q * WIDTH**-0.5)
        o = o / (o.square().mean(-1, keepdim=True) + EPS).sqrt() * d["o_norm"]
        left = d["pool"].clone()
        left[slots] = state
        return o.flatten(1) * torch.sigmoid(d["z"]), left

    def again(self) -> "Inputs":
        """The same with pools of its own."""
        return replace(self, pool=self.pool.clone(), conv_pool=self.conv_pool.clone())


class Fla:
    """The same step by flash-linear-attention: convolution, recurrence with norms and gate, gated norm."""

    def __init__(self, inputs: Inputs) -> None:
        self.x = inputs
        self.cache = F.pad(inputs.conv_pool[inputs.slots.long()].transpose(1, 2), (1, 0)).contiguous()  # [B,3C,W]
        self.states = inputs.pool[inputs.slots.long()]
        order = torch.arange(inputs.raw.shape[0] + 1, device="cuda")
        self.starts, self.numbers = order, order[:-1].to(torch.int32)

    def recurrence(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v [1,B,H,K] -> o [B,H,V]."""
        from fla.ops.kda.fused_recurrent import fused_recurrent_kda_fwd

        x, batch = self.x, q.shape[1]
        o, _ = fused_recurrent_kda_fwd(
            q, k, v, x.a.view(1, batch, HEADS, WIDTH), x.b.view(1, batch, HEADS), x.A_log, x.dt_bias, self.states,
            output_final_state=True, inplace_final_state=True, cu_seqlens=self.starts, ssm_state_indices=self.numbers,
            use_qk_l2norm_in_kernel=True, use_gate_in_kernel=True, use_beta_sigmoid_in_kernel=True,
        )  # fmt: skip
        return o[0]

    def whole(self) -> Tensor:
        from fla.modules.causal_conv1d.ops import causal_conv1d_update
        from fla.modules.norm.fused_norm_gate import rms_norm_gated

        x = self.x
        found = causal_conv1d_update(x.raw.unsqueeze(1), self.cache, weight=x.conv_weight, activation="silu")
        mixed = found[0] if isinstance(found, tuple) else found
        o = self.recurrence(*apart(mixed.reshape(x.raw.shape[0], -1)))
        gate = x.z.view(o.shape)
        return rms_norm_gated(o, gate, x.o_norm, None, activation="sigmoid", eps=EPS).flatten(1)


def apart(mixed: Tensor) -> Tensor:
    """[B,3C] -> q, k, v [3,1,B,H,K], one copy."""
    return mixed.view(-1, 3, HEADS, WIDTH).transpose(0, 1).unsqueeze(1).contiguous()


def plain(x: Inputs) -> Callable[[], Tensor]:
    """PyTorch, step by step in fp32, the states updated in place."""
    slots = x.slots.long()

    def run() -> Tensor:
        window = torch.cat([x.conv_pool[slots], x.raw[:, None]], 1)
        x.conv_pool[slots] = window[:, 1:]
        mixed = F.silu((window.float() * x.conv_weight.float().T).sum(1)).view(-1, 3, HEADS, WIDTH)
        q, k = (y * torch.rsqrt(y.square().sum(-1, keepdim=True) + 1e-6) for y in mixed[:, :2].unbind(1))
        g = -x.A_log.exp()[:, None] * F.softplus(x.a.float() + x.dt_bias).view(-1, HEADS, WIDTH)
        state = x.pool[slots] * g.exp()[..., None]
        error = torch.sigmoid(x.b.float())[..., None] * (mixed[:, 2] - (k[..., None, :] @ state)[..., 0, :])
        state += k[..., None] * error[..., None, :]
        x.pool[slots] = state
        o = ((q * WIDTH**-0.5)[..., None, :] @ state)[..., 0, :]
        o = F.rms_norm(o, (WIDTH,), x.o_norm.float(), EPS) * torch.sigmoid(x.z.float()).view_as(o)
        return o.to(x.raw.dtype).flatten(1)

    return run


def first(run: Callable[[], Tensor], x: Any) -> Callable[[], tuple[Tensor, ...]]:
    """The first run's outputs, kept: the states go on changing in the runs that are timed."""
    kept: list[tuple[Tensor, ...]] = []

    def once() -> tuple[Tensor, ...]:
        y = run()
        if not kept and not torch.cuda.is_current_stream_capturing():
            kept.append((y.clone(), x.pool.clone()))
        return kept[0]

    return once


def cases() -> Iterator[Case]:
    torch.manual_seed(0)
    for batch in (1, 8, 64, 256):
        yield one(batch)
    for batch in (1, 8, 64, 256):
        yield chain(batch)


def one(batch: int) -> Case:
    x = Inputs.make(batch)
    mine, torches, fla = x.again(), x.again(), Fla(x)
    kept: list[tuple[Tensor, Tensor]] = []

    def whole() -> tuple[Tensor, Tensor]:
        y = fla.whole()
        if not kept:
            kept.append((y.clone(), scattered(fla.states, x)))
        return kept[0]

    impls = {
        "shiori": first(mine.ours, mine),
        "fla conv + recurrence + norm": whole,
        "torch": first(plain(torches), torches),
    }
    sizes = batch * BYTES, batch * HEADS * FLOPS
    return Case("kda_decode", f"B={batch}", *sizes, impls, x.defined, graph=True)


def scattered(states: Tensor, x: Inputs) -> Tensor:
    """States in the batch's order -> in the pool's order."""
    left = x.pool.clone()
    left[x.slots.long()] = states
    return left


def several(batch: int, count: int) -> list[Inputs]:
    """Layers that share the table of slots, as a model's do."""
    layers = [Inputs.make(batch) for _ in range(count)]
    return [replace(x, slots=layers[0].slots) for x in layers]


def chain(batch: int) -> Case:
    """Layers one after another in one graph, each with its own pools: what a launch costs beside the others."""
    layers = several(batch, LAYERS)
    rivals = [Fla(x) for x in layers]
    q, k, v = apart(torch.randn(batch, 3 * CHANNELS, device="cuda", dtype=torch.bfloat16))
    impls = {
        "shiori": lambda: [x.ours() for x in layers],
        "fla conv + recurrence + norm": lambda: [x.whole() for x in rivals],
        "fla recurrence alone": lambda: [x.recurrence(q, k, v) for x in rivals],
    }
    sizes = batch * BYTES, batch * HEADS * FLOPS
    return Case("kda_decode", f"B={batch}, {LAYERS} layers", *sizes, impls, graph=True, launches=LAYERS)
