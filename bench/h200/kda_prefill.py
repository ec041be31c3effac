"""KDA prefill with the 48B's unbounded gate: raw inputs, fp32 state in and out."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.h200.measuring import Case
from kernels.gpu.kda_prefill import kda_prefill
from kernels.gpu.packing import CHUNK, Packing
from kernels.kda import kda_gate, kda_recurrence

WIDTH = 128  # of keys and of values
OURS, RIVAL = "ours", "flash-linear-attention"


@dataclass
class Batch:
    """Random inputs of H heads; ``fast``: 3.2 nats a token, else the 48B's gate as it is initialised, 0.3 to 0.5."""

    lengths: list[int]
    H: int
    fast: bool = False

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        rows, device = sum(self.lengths), torch.device("cuda")
        self.q, self.k, self.v, self.a = (
            torch.randn(rows, self.H, WIDTH, device=device, dtype=torch.bfloat16) for _ in range(4)
        )
        self.b = torch.randn(rows, self.H, device=device, dtype=torch.bfloat16)
        self.A_log = torch.empty(self.H, device=device).uniform_(1, 16).log()
        dt = torch.empty(self.H * WIDTH, device=device).uniform_(-6.907755, -2.302585).exp()  # 1e-3 to 1e-1
        self.dt_bias = dt + torch.log(-torch.expm1(-dt))
        if self.fast:
            self.A_log, self.dt_bias = torch.full_like(self.A_log, 0.6), torch.full_like(dt, 1.5)
        self.state = torch.randn(len(self.lengths), self.H, WIDTH, WIDTH, device=device)
        self.pool, self.slots = self.state.clone(), torch.arange(len(self.lengths), device=device, dtype=torch.int32)
        self.packing = Packing.of(self.lengths, device)
        self.ends = torch.tensor([0, *self.lengths], device=device).cumsum(0)

    def inputs(self) -> tuple:
        """All that kda_prefill takes."""
        rows = (self.q, self.k, self.v, self.a, self.b, self.A_log, self.dt_bias)
        return *rows, self.packing, self.pool, self.slots

    def ours(self) -> tuple[Tensor, Tensor]:
        """The state goes on in its slot: only the first run after ``reset`` starts from ``state``."""
        return kda_prefill(*self.inputs()), self.pool

    def reset(self) -> None:
        self.pool.copy_(self.state)

    def fla(self) -> tuple[Tensor, Tensor]:
        from fla.ops.kda import chunk_kda

        named = {} if len(self.lengths) == 1 else {"cu_seqlens": self.ends}
        with torch.inference_mode():
            o, state = chunk_kda(
                *(x[None] for x in (self.q, self.k, self.v, self.a, self.b)),
                A_log=self.A_log, dt_bias=self.dt_bias, initial_state=self.state, output_final_state=True,
                use_qk_l2norm_in_kernel=True, use_gate_in_kernel=True,
                use_beta_sigmoid_in_kernel=True, **named,
            )  # fmt: skip
        return o[0], state

    def expected(self) -> tuple[Tensor, Tensor]:
        """By the recurrence in float64."""
        a, b, v, A_log, dt_bias = (x.double() for x in (self.a, self.b, self.v, self.A_log, self.dt_bias))
        q, k = (x.double() * (x.double().square().sum(-1, keepdim=True) + 1e-6).rsqrt() for x in (self.q, self.k))
        g = kda_gate(a.flatten(1), A_log, dt_bias)
        rows = [x.split(self.lengths) for x in (q * WIDTH**-0.5, k, v, g, b.sigmoid())]
        done = [kda_recurrence(*part, self.state[n].double()) for n, part in enumerate(zip(*rows, strict=True))]
        return torch.cat([o for o, _ in done]), torch.stack([state for _, state in done])

    @property
    def bytes(self) -> int:
        rows, sequences = sum(self.lengths), len(self.lengths)
        return self.H * (rows * 1282 + sequences * 2 * 4 * WIDTH * WIDTH)

    @property
    def flops(self) -> int:
        return self.H * sum(self.lengths) * (5 * CHUNK * WIDTH + 6 * WIDTH * WIDTH)

    def case(self, name: str, impl: str, graph: bool = False, checked: bool = False) -> Case:
        gate = "fast gate" if self.fast else "48B gate"
        run = {OURS: self.ours, RIVAL: self.fla}[impl]
        expected = self.expected if checked else None
        return Case("kda_prefill", f"{name}, {gate}", self.bytes, self.flops, {impl: run}, expected, graph)


def cases() -> Iterator[Case]:
    """All of ours before the rival's, whose compilation takes a minute; the most telling first."""
    for impl in (OURS, RIVAL):
        yield from of_one_sequence(impl, fast=False)
        yield Batch([1024] * 64, 32).case("H=32 64x1024", impl)
        yield Batch([65536], 8).case("H=8 64k", impl)
        yield from of_one_sequence(impl, fast=True)
        yield Batch([262144], 32).case("H=32 256k", impl)
        yield Batch([65, 255, 700], 32).case("H=32 65+255+700", impl, graph=True, checked=True)


def of_one_sequence(impl: str, fast: bool) -> Iterator[Case]:
    """Errors are taken up to 8k: the recurrence in float64 takes a second there."""
    yield Batch([1024], 32, fast).case("H=32 1k", impl, graph=True, checked=True)
    yield Batch([8192], 32, fast).case("H=32 8k", impl, graph=True, checked=True)
    yield Batch([65536], 32, fast).case("H=32 64k", impl)
