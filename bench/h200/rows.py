"""What works row by row, at the 48B's sizes, bf16: beside PyTorch, and flash-linear-attention where it has the op."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.h200.measuring import Case
from kernels.gpu import rows
from kernels.gpu.packing import Packing

HIDDEN, HEADS, WIDTH, CHANNELS, RANK, SHARED, PAGE, EPS = 2304, 32, 128, 12288, 512, 64, 256, 1e-5
VOCABULARY = 163840


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def cases() -> Iterator[Case]:
    torch.manual_seed(0)
    for count in (1, 256, 65536):
        yield rms(count)
        yield gated(count)
        yield swiglu(count)
    yield convolved([1, 500, 64])
    for lengths in ([65536], [1024] * 64):
        yield convolved(lengths)
        yield latents(lengths)
    yield latents([1] * 256)
    for out, depth in ((20512, HIDDEN), (HIDDEN, 4096), (VOCABULARY, HIDDEN), (HIDDEN, 9216), (18432, HIDDEN)):
        for count in (1, 8, 16):
            yield product(count, out, depth)
    for count in (1, 256):
        yield greedy(count)


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight


def rms(count: int) -> Case:
    x, weight = normal(count, HIDDEN), normal(HIDDEN)
    impls = {
        "shiori": lambda: rows.rms_norm(x, weight, EPS),
        "torch": lambda: F.rms_norm(x, (HIDDEN,), weight, EPS),
    }
    return Case(
        "rms_norm", f"T={count}", 4 * count * HIDDEN, 4 * count * HIDDEN, impls,
        lambda: (normed(x.double(), weight.double()),), graph=True,
    )  # fmt: skip


def gated(count: int) -> Case:
    o, z, weight = normal(count, HEADS, WIDTH), normal(count, HEADS * WIDTH), normal(WIDTH)

    def fla() -> Tensor:
        from fla.modules.norm.fused_norm_gate import rms_norm_gated

        return rms_norm_gated(o, z.view_as(o), weight, None, activation="sigmoid", eps=EPS).flatten(1)

    impls = {
        "shiori": lambda: rows.gated_rms_norm(o, z, weight, EPS),
        "fla": fla,
        "torch": lambda: (F.rms_norm(o, (WIDTH,), weight, EPS) * torch.sigmoid(z.view_as(o))).flatten(1),
    }
    size = count * HEADS * WIDTH
    return Case(
        "gated_rms_norm", f"T={count}", 6 * size, 8 * size, impls,
        lambda: (normed(o.double(), weight.double()).flatten(1) * torch.sigmoid(z.double()),), graph=True,
    )  # fmt: skip


def swiglu(count: int) -> Case:
    x = normal(count, 2 * 1024)
    gate, up = x.chunk(2, 1)
    impls = {"shiori": lambda: rows.swiglu(x), "torch": lambda: F.silu(gate) * up}
    return Case(
        "swiglu", f"T={count}, I=1024", 6 * count * 1024, 5 * count * 1024, impls,
        lambda: (F.silu(gate.double()) * up.double(),), graph=True,
    )  # fmt: skip


def convolved(lengths: list[int]) -> Case:
    count = sum(lengths)
    packing = Packing.of(lengths, "cuda")
    x, weight = normal(count, CHANNELS), normal(CHANNELS, 4) / 2
    pool = torch.zeros(len(lengths), 3, CHANNELS, device="cuda", dtype=torch.bfloat16)
    slots = torch.arange(len(lengths), device="cuda", dtype=torch.int32)

    def ours() -> Tensor:
        pool.zero_()
        return rows.short_conv(x, weight, packing, pool, slots)

    def fla() -> Tensor:
        from fla.modules.causal_conv1d.ops import causal_conv1d_fwd

        starts = packing.starts.long()
        return causal_conv1d_fwd(x[None], weight, None, None, None, activation="silu", cu_seqlens=starts)[0][0]

    def expected() -> tuple[Tensor]:
        parts = [F.pad(part.T, (3, 0)).unfold(1, 4, 1) for part in x.split(lengths)]
        mixed = torch.cat([(part.float() * weight.float()[:, None]).sum(2).T for part in parts])
        return (F.silu(mixed),)

    return Case(
        "short_conv", f"{len(lengths)}x{max(lengths)}", 4 * count * CHANNELS, 12 * count * CHANNELS,
        {"shiori": ours, "fla": fla}, expected if count <= 4096 else None,
    )  # fmt: skip


def latents(lengths: list[int]) -> Case:
    count, pages = sum(lengths), [-(-n // PAGE) for n in lengths]
    latent, weight = normal(count, RANK + SHARED), normal(RANK)
    pool = torch.zeros(sum(pages), PAGE, RANK + SHARED, device="cuda", dtype=torch.bfloat16)
    tables = torch.zeros(len(lengths), max(pages), device="cuda", dtype=torch.int32)
    for n, numbers in enumerate(torch.arange(sum(pages)).split(pages)):
        tables[n, : len(numbers)] = numbers
    there, packing = torch.tensor(lengths, dtype=torch.int32, device="cuda"), Packing.of(lengths, "cuda")
    place = torch.cat([torch.arange(n) + PAGE * sum(pages[:i]) for i, n in enumerate(lengths)]).cuda()

    def ours() -> Tensor:
        rows.put_latents(latent, pool, tables, packing, there, weight, EPS, RANK)
        return pool.view(-1, RANK + SHARED)

    def plain() -> Tensor:
        row = torch.cat([F.rms_norm(latent[:, :RANK], (RANK,), weight, EPS), latent[:, RANK:]], 1)
        return pool.view(-1, RANK + SHARED).index_copy_(0, place, row)

    def expected() -> tuple[Tensor]:
        right = torch.zeros(pool.view(-1, RANK + SHARED).shape, dtype=torch.float64, device="cuda")
        right[place] = torch.cat([normed(latent[:, :RANK].double(), weight.double()), latent[:, RANK:].double()], 1)
        return (right,)

    size = count * (RANK + SHARED)
    return Case(
        "put_latents", f"{len(lengths)}x{lengths[0]}", 4 * size, 4 * size, {"shiori": ours, "torch": plain}, expected,
        graph=True,
    )  # fmt: skip


def product(count: int, out: int, depth: int) -> Case:
    """Copies of a small weight that take turns, so that none is found in the L2 cache."""
    times = max(1, int(4e8 // (2 * out * depth)))
    x, weights = normal(count, depth), [normal(out, depth) / depth**0.5 for _ in range(times)]

    def each(one: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            for weight in weights:
                y = one(x, weight)
            return y

        return run

    sizes = 2 * (out * depth + count * (out + depth)), 2 * count * out * depth
    return Case(
        "linear", f"T={count} [{out},{depth}]", *sizes, {"shiori": each(rows.linear), "torch": each(F.linear)},
        lambda: (x.double() @ weights[-1].double().T,), graph=True, launches=times,
    )  # fmt: skip


def greedy(count: int) -> Case:
    logits = 4 * normal(count, VOCABULARY)
    logits[range(count), torch.randint(VOCABULARY, (count,))] = 20.0  # no equals

    def plain() -> tuple[Tensor, Tensor]:
        wide = logits.float()
        token = wide.argmax(1)
        return token, wide.gather(1, token[:, None])[:, 0] - wide.logsumexp(1)

    def expected() -> tuple[Tensor, Tensor]:
        logprob = torch.log_softmax(logits.double(), 1).max(1)
        return logprob.indices, logprob.values

    impls = {"shiori": lambda: rows.greedy(logits)[:2], "torch": plain}
    return Case(
        "greedy", f"B={count}", 2 * count * VOCABULARY, 4 * count * VOCABULARY, impls, expected, graph=True
    )  # fmt: skip
