"""KDA forward and backward as lab trains with it: packed sequences, raw inputs, 48B gate, against fla's chunk_kda.

At their first call its kernels choose among 206 configurations. All that its authors list are tried, for the long case.
They are compiled side by side before that (one after another it took more than eight minutes), and each is timed for
20 ms, not 100.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction
from triton.testing import do_bench

from bench.h200.measuring import Case
from kernels.gpu.kda_training import kda
from kernels.gpu.packing import Packing
from kernels.kda import kda_recurrence

FLOPS = 139_264  # of the forward, a token and head (kernels.md §1); the backward takes twice that
BYTES = {"forward": 1_282, "forward + backward": 3_590}  # a token and head (kernels.md §1, §2.6)
LEAVES = 7
SHORT = (4, 256, 32, "48B")  # batch, tokens, heads, gate; the errors are of this one: the definition is slow
LONG = (8, 4096, 32, "48B")
OURS = [SHORT, LONG, (8, 4096, 4, "48B"), (8, 4096, 32, "shut")]  # the model shipped here; a gate that shuts


def cases() -> Iterator[Case]:
    """All of ours, then fla on the long case, where it chooses its configurations, and on the short one."""
    for impl, sizes in [("ours", OURS), ("flash-linear-attention", [LONG, SHORT])]:
        for size in sizes:
            yield from both(impl, *size)


def both(impl: str, batch: int, tokens: int, heads: int, gate: str) -> Iterator[Case]:
    inputs, gradient = make(batch * tokens, heads, gate)
    expected = definition(inputs, gradient, batch) if tokens == SHORT[1] else None
    compute = IMPLEMENTATIONS[impl](batch, tokens)
    with only_compiling():
        step(compute, inputs, gradient, 1 + LEAVES)()
    for what in BYTES:
        outputs = 1 if what == "forward" else 1 + LEAVES
        yield Case(
            "kda_training",
            f"{what} B={batch} T={tokens} H={heads} K=V=128, {gate} gate",
            BYTES[what] * batch * tokens * heads,
            FLOPS * (1 if outputs == 1 else 3) * batch * tokens * heads,
            {impl: step(compute, inputs, gradient, outputs)},
            (lambda outputs=outputs: expected[:outputs]) if expected else None,
        )


def make(rows: int, heads: int, gate: str) -> tuple[list[Tensor], Tensor]:
    """((q, k, v, a, b, A_log, dt_bias), the gradient of o). 48B: as its gate begins; shut: some 10·A nats."""
    torch.manual_seed(0)
    q, k, v, a, gradient = (torch.randn(rows, heads, 128, device="cuda", dtype=torch.bfloat16) for _ in range(5))
    b = torch.randn(rows, heads, device="cuda", dtype=torch.bfloat16)
    A_log = torch.empty(heads, device="cuda").uniform_(1, 16).log()
    step = torch.exp(torch.empty(heads * 128, device="cuda").uniform_(-6.9, -2.3))
    dt_bias = step + torch.log(-torch.expm1(-step)) + (0.0 if gate == "48B" else 12.0)
    return [x.requires_grad_() for x in (q, k, v, a, b, A_log, dt_bias)], gradient


def ours(batch: int, tokens: int) -> Callable[..., Tensor]:
    packing = Packing.of([tokens] * batch, "cuda")
    return lambda *inputs: kda(*inputs, packing)[0]


def fla(batch: int, tokens: int) -> Callable[..., Tensor]:
    from fla.ops.kda import chunk_kda

    Autotuner.do_bench = property(lambda self: partial(do_bench, warmup=5, rep=20))
    Autotuner.check_disk_cache = lambda self, key, configs, choose: choose()  # not what another process found
    ends = torch.arange(batch + 1, device="cuda", dtype=torch.int32) * tokens

    def run(q, k, v, a, b, A_log, dt_bias):
        rows = [x[None] for x in (q, k, v, a, b.float().sigmoid())]
        gate = {"use_gate_in_kernel": True, "A_log": A_log, "dt_bias": dt_bias}
        return chunk_kda(*rows, use_qk_l2norm_in_kernel=True, **gate, cu_seqlens=ends)[0][0]

    return run


IMPLEMENTATIONS = {"ours": ours, "flash-linear-attention": fla}


@contextmanager
def only_compiling() -> Iterator[None]:
    """Within, kernels are compiled side by side, an autotuner's in all its configurations, and none is launched."""
    launch, tuned = JITFunction.run, Autotuner.run
    JITFunction.run = lambda *given, warmup, **named: launch(*given, warmup=True, **named)
    Autotuner.run = in_all_configurations
    in_this_thread = torch.autograd.set_multithreading_enabled(False)  # else a backward would not see the mode
    with in_this_thread, ThreadPoolExecutor(16) as pool, triton.AsyncCompileMode(pool, ignore_errors=True):
        yield
    JITFunction.run, Autotuner.run = launch, tuned


def in_all_configurations(self: Autotuner, *given, **named) -> None:
    self.nargs = dict(zip(self.arg_names, given, strict=False))
    for config in self.prune_configs(named):
        self.fn.run(*given, **named | config.all_kwargs())


def step(f: Callable[..., Tensor], inputs: list[Tensor], gradient: Tensor, outputs: int) -> Callable[[], tuple]:
    """The forward as training runs it, that is with what the backward needs; or both."""

    def run():
        o = f(*inputs)
        return (o.detach(),) if outputs == 1 else (o.detach(), *torch.autograd.grad(o, inputs, gradient))

    return run


def definition(inputs: list[Tensor], gradient: Tensor, batch: int, part: int = 64) -> tuple[Tensor, ...]:
    """Token by token in float64, the sequences side by side as heads; states are kept every ``part`` tokens."""
    leaves = [x.detach().double().requires_grad_() for x in inputs]
    q, k, v, a, b, A_log, dt_bias = leaves
    unit_q, unit_k = (x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6) for x in (q, k))
    g = -A_log.exp()[:, None] * F.softplus(a + dt_bias.view(a.shape[1:]))
    rows = [side_by_side(x, batch) for x in (unit_q * 128**-0.5, unit_k, v, g, b.sigmoid())]
    state = g.new_zeros(rows[0].shape[1], 128, 128)
    parts = []
    for now in zip(*(x.split(part) for x in rows), strict=True):
        o, state = checkpoint(kda_recurrence, *now, state, use_reentrant=False)
        parts.append(o)
    o = torch.cat(parts).unflatten(1, (batch, -1)).transpose(0, 1).flatten(0, 1)
    return o.detach(), *torch.autograd.grad(o, leaves, gradient.double())


def side_by_side(x: Tensor, batch: int) -> Tensor:
    """[B·T,H,…] -> [T,B·H,…]."""
    return x.unflatten(0, (batch, -1)).transpose(0, 1).flatten(1, 2)
