"""Compiles the GPU kernels, as their own functions launch them at the 48B's shapes, for GPUs that are not here.

    python -m bench.gpu_compile [--capability 80 86 90] [--only kda_prefill …] [--out FILE]

Registers, bytes of stack (spills) and of shared memory of every kernel; the exit status is 1 where one asks for more
shared memory than a block may have on that GPU. Needs Triton, no GPU: tensors are shapes without numbers that say they
lie on one, and the driver names it and launches nothing.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import KernelInterface

from kernels.gpu import kda_backward, kda_decode, kda_forward, kda_prefill, matmul, mla_decode, mla_prefill, moe, rows
from kernels.gpu.packing import Packing

GPUS = {  # capability -> (multiprocessors, bytes of shared memory that a block may have): A100, A10, L4, H200
    80: (108, 166_912), 86: (72, 101_376), 89: (58, 101_376), 90: (132, 232_448),
}  # fmt: skip
WIDTH, HEADS, K = 2304, 32, 128
RANK, NOPE, SHARED, VALUE = 512, 128, 64, 128
EXPERTS, TOP, INNER = 256, 8, 1024
ROWS = 8192

Launched = tuple[str, Any]  # a kernel's name, what Triton made of it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", type=int, nargs="+", default=list(GPUS), choices=list(GPUS))
    parser.add_argument("--only", nargs="+", default=list(CALLS), choices=list(CALLS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if len(arguments.capability) > 1:  # Triton keeps what it compiled by function: a process for each GPU
        sys.exit(max(subprocess.call([sys.executable, *again(arguments, one)]) for one in arguments.capability))
    (capability,) = arguments.capability
    launched, lines = pretend(capability), []
    for name in arguments.only:
        launched.clear()
        with OnMeta():
            CALLS[name]()
        for kernel, made in launched:
            line = {"capability": capability, "call": name, "kernel": kernel} | usage(made)
            if line not in lines:
                lines.append(line)
                print(json.dumps(line), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps({"triton": triton.__version__, "kernels": lines}, indent=1) + "\n")
    over = [line for line in lines if line["shared"] > GPUS[capability][1]]
    sys.exit(f"too much shared memory: {over}" if over else 0)


def again(arguments: argparse.Namespace, capability: int) -> list[str]:
    found = ["-m", "bench.gpu_compile", "--capability", str(capability), "--only", *arguments.only]
    out = arguments.out
    return found + (["--out", str(out.with_stem(f"{out.stem}-{capability}"))] if out else [])


def pretend(capability: int) -> list[Launched]:
    """From here on a launch is a compilation for that GPU; the list fills with what was compiled."""
    launched: list[Launched] = []

    def instead(kernel: Any, grid: Any) -> Callable[..., None]:
        def launch(*arguments: Any, **named: Any) -> None:
            launched.append((kernel.fn.__name__, kernel.run(*arguments, grid=grid, warmup=True, **named)))

        return launch

    units, shared = GPUS[capability]
    seen = SimpleNamespace(multi_processor_count=units, shared_memory_per_block_optin=shared)
    triton.runtime.driver.set_active(Driver(capability))  # type: ignore[arg-type]
    KernelInterface.__getitem__ = instead  # type: ignore[method-assign]
    torch.cuda.get_device_capability = lambda device=None: divmod(capability, 10)
    torch.cuda.get_device_properties = lambda device=None: seen
    return launched


class Shape(torch.Tensor):
    """A tensor of the meta device that calls itself one of a GPU, aligned."""

    is_cuda = True
    device = torch.device("cuda", 0)

    def data_ptr(self) -> int:
        return 0


class OnMeta(TorchFunctionMode):
    """Every operation is done on shapes, and what comes of it calls itself a GPU's again."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if named.get("device") is not None:
            named["device"] = "meta"
        with torch._C.DisableTorchFunctionSubclass():
            args, named = tree_map_only(Shape, lambda x: x.as_subclass(torch.Tensor), (args, named))
            return tree_map_only(torch.Tensor, lambda x: x.as_subclass(Shape), func(*args, **named))


class Driver:
    """What Triton's compiler asks of a driver."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def usage(made: Any) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    numbers = {name: int(number) for name, number in re.findall(r"(REG|STACK):(\d+)", text)}
    found = {"warps": made.metadata.num_warps, "registers": numbers["REG"], "stack": numbers["STACK"]}
    return found | {"shared": made.metadata.shared}


# the calls, with tensors of the 48B's shapes


def new(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda")


def fp32(*shape: int) -> torch.Tensor:
    return new(*shape, dtype=torch.float32)


def int32(*shape: int) -> torch.Tensor:
    return new(*shape, dtype=torch.int32)


def packing(count: int, sequences: int = 1) -> Packing:
    return Packing(count, int32(sequences + 1), int32(sequences + 1), int32(-(-count // 64)))


def kda_rows(count: int = ROWS) -> tuple[torch.Tensor, ...]:
    """q, k, v, a, b, A_log, dt_bias."""
    return *(new(count, HEADS, K) for _ in range(4)), new(count, HEADS), fp32(HEADS), fp32(HEADS * K)


def read_kda() -> None:
    kda_prefill.kda_prefill(*kda_rows(), packing(ROWS), fp32(4, HEADS, K, K), int32(1))


def decode_kda() -> None:
    width = 3 * HEADS * K
    logits = new(1, HEADS * K), new(1, HEADS), new(1, HEADS * K)
    learned = fp32(HEADS), fp32(HEADS * K), new(K), 1e-5
    kda_decode.kda_decode(
        new(1, width), new(width, 4), new(4, 3, width), *logits, *learned, fp32(4, HEADS, K, K), int32(1)
    )


def train_kda() -> None:
    """Both ways by hand: autograd itself would want a GPU."""
    q, k, v, a, b, A_log, dt_bias = kda_rows()
    packed = packing(ROWS, 2)
    o, _, kept = kda_forward.forward(q, k, v, a, b, A_log, dt_bias, packed, None)
    kda_backward.backward(torch.empty_like(o), None, o, v, a, b, A_log, dt_bias, packed, kept)


def latents(table: int = 512) -> tuple[torch.Tensor, ...]:
    """A pool's pages, one table, a length."""
    return new(64, 256, RANK + SHARED), int32(1, table), int32(1)


def decode_mla() -> None:
    kv_b = new(HEADS, NOPE + VALUE, RANK)
    mla_decode.mla_decode(new(1, HEADS, NOPE + SHARED), *latents(), kv_b, VALUE)


def read_mla() -> None:
    """Of a long sequence, so that there is more than one round."""
    kv_b, length = new(HEADS, NOPE + VALUE, RANK), 131_072
    mla_prefill.mla_prefill(new(ROWS, HEADS, NOPE + SHARED), *latents(), packing(ROWS), kv_b, VALUE, [length])


def experts() -> None:
    """One row; few; so many that tiles have 16, 64 and 128 rows."""
    w13, w2 = new(EXPERTS, 2 * INNER, WIDTH), new(EXPERTS, WIDTH, INNER)
    for count in (1, 16, 256, 1024, ROWS):
        x = new(count, WIDTH)
        indices, weights = moe.route(x, new(EXPERTS, WIDTH), fp32(EXPERTS), TOP, 2.446, True)
        moe.moe(x, indices, weights, w13, w2)


def small() -> None:
    for count in (1, ROWS):
        rows.rms_norm(new(count, WIDTH), new(WIDTH), 1e-5)
        rows.gated_rms_norm(new(count, HEADS, K), new(count, HEADS * K), new(K), 1e-5)
    rows.short_conv(new(ROWS, 3 * HEADS * K), new(3 * HEADS * K, 4), packing(ROWS), new(4, 3, 3 * HEADS * K), int32(1))
    rows.linear(new(16, WIDTH), new(3 * HEADS * K, WIDTH))
    rows.linear(new(16, HEADS * K), new(WIDTH, HEADS * K), new(16, WIDTH))
    rows.narrow(new(1, WIDTH), rows.Norm(new(WIDTH), 1e-5), new(EXPERTS, WIDTH))
    rows.greedy(fp32(1, 163_840))
    for count in (1, ROWS):
        matmul.matmul(new(count, WIDTH), new(HEADS * K, WIDTH))


CALLS: dict[str, Callable[[], None]] = {
    "kda_prefill": read_kda, "kda_decode": decode_kda, "kda_training": train_kda, "mla_decode": decode_mla,
    "mla_prefill": read_mla, "moe": experts, "rows": small,
}  # fmt: skip

if __name__ == "__main__":
    main()
