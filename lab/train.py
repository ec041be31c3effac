"""Train by the clock: `python -m lab.train --seconds 570 --start 0 --stop 0.5 --out DIR` (torchrun for several GPUs).

`--start` and `--stop` say which part of the plan this call runs; a checkpoint in DIR is taken up again. Ends with an
exported model whatever happened.
"""

import argparse
import json
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from lab.export import save_model
from lab.loader import batches
from lab.net import Net, Row, compile_parts, read_config
from lab.optim import Optimiser
from lab.plan import rate_at
from lab.weights import load_into, read

BORN = time.time()


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--plan-from", type=float, default=0.0)
    parser.add_argument("--plan-to", type=float, default=1.0)
    parser.add_argument("--tokens", type=int, default=65536, help="per process and step")
    parser.add_argument("--muon", type=float, default=5e-3)
    parser.add_argument("--adam", type=float, default=3e-3)
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path("lab/model/config.json"))
    parser.add_argument("--weights", type=Path, help="begin with these (released format) where there is no checkpoint")
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--steps", type=int, default=10**9)
    return parser.parse_args()


class Clock:
    """How far the plan is, the same on every process."""

    def __init__(self, seconds: float, start: float, stop: float, device: torch.device):
        self.seconds, self.start, self.stop, self.device = seconds, start, stop, device
        self.elapsed = 0.0

    def look(self) -> None:
        now = torch.tensor([time.time() - BORN], device=self.device)
        if dist.is_initialized():
            dist.all_reduce(now, op=dist.ReduceOp.MAX)
        self.elapsed = float(now)

    def begin(self) -> None:
        """The plan's part starts when the first step is through, not while kernels are compiled."""
        self.look()
        self.offset = self.elapsed

    def progress(self) -> float:
        done = (self.elapsed - self.offset) / max(1.0, self.seconds - self.offset)
        return self.start + (self.stop - self.start) * min(1.0, done)


def checkpoint(net: Net, optimiser: Optimiser, out: Path, step: int, tokens: int) -> None:
    tensors = {f"net.{k}": v for k, v in net.state_dict().items()} | optimiser.state()
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, out / "writing.safetensors")
    (out / "writing.safetensors").rename(out / "checkpoint.safetensors")
    (out / "step.json").write_text(json.dumps({"step": step, "tokens": tokens}))


def resume(net: Net, optimiser: Optimiser, out: Path) -> tuple[int, int]:
    if not (out / "checkpoint.safetensors").exists():
        return 0, 0
    tensors = load_file(out / "checkpoint.safetensors", device=str(next(net.parameters()).device))
    net.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net.")})
    optimiser.load({k: v for k, v in tensors.items() if not k.startswith("net.")})
    state = json.loads((out / "step.json").read_text())
    return state["step"], state["tokens"]


def one_step(net: Net, batch: tuple, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of a batch; (loss on text, loss on answers), not read yet."""
    tokens, targets, weights, ends = (x.to(device, non_blocking=True) for x in batch)
    longest = int((batch[3][1:] - batch[3][:-1]).max())
    x, loads = net.hidden(tokens, Row(ends, longest, len(batch[0])))
    losses = net.losses(x, targets)
    (losses * weights).sum().div(weights.sum()).backward()
    with torch.no_grad():
        net.balance(mean_over_processes(loads), 1e-3)
        text, answers = weights == 1.0, weights > 1.0
        return torch.stack([(losses * m).sum() / m.sum().clamp(min=1) for m in (text, answers)]), loads


def mean_over_processes(x: torch.Tensor) -> torch.Tensor:
    x = x.detach()
    if dist.is_initialized():
        dist.all_reduce(x, op=dist.ReduceOp.AVG)
    return x


def main() -> None:
    args = options()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    stream, progress = batches(args.tokens, args.tables, args.corpus, int(BORN) * 1000 + rank * 100, args.workers)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    torch.manual_seed(1)
    args.out.mkdir(parents=True, exist_ok=True)
    net = Net(read_config(args.config), torch.bfloat16 if device.type == "cuda" else torch.float32).to(device)
    if not args.eager:
        compile_parts()
    optimiser = Optimiser(net, args.muon, args.adam)
    warm(net, optimiser, args.tokens, device)
    if rank == 0:
        print(f"warm after {time.time() - BORN:.0f} s", flush=True)
    if args.weights:
        load_into(net, read(args.weights))
    step, tokens = resume(net, optimiser, args.out)
    train(args, net, optimiser, stream, progress, step, tokens, rank, world, device)


def warm(net: Net, optimiser: Optimiser, size: int, device: torch.device) -> None:
    """Compile and tune every kernel on made-up tokens, while the first batch is being drawn."""
    tokens = torch.randint(16, 1000, (size,))
    ends = torch.tensor([0, size // 3, size // 3 + 7, size], dtype=torch.int32)
    biases = [layer.mlp.bias.clone() for layer in net.layers[1:]]
    for _ in range(2):
        one_step(net, (tokens, tokens, torch.ones(size), ends), device)
        optimiser.flat.zero_()
    for layer, bias in zip(net.layers[1:], biases, strict=True):
        layer.mlp.bias.copy_(bias)


def train(args, net, optimiser, stream, progress, step, tokens, rank, world, device) -> None:
    clock = Clock(args.seconds, args.plan_from, args.plan_to, device)
    first, saved, began = step, time.time(), 0.0
    progress.value = args.plan_from
    log = open(args.out / "curve.jsonl", "a") if rank == 0 else None  # noqa: SIM115
    while True:
        report, loads = one_step(net, next(stream), device)
        if step == first + 2:
            clock.begin()
            began, counted = time.time(), tokens
        if step > first + 2 and step % 10 == 0:
            clock.look()
        where = clock.progress() if step >= first + 2 else args.plan_from
        progress.value = where
        optimiser.step(rate_at(where, step))
        step, tokens = step + 1, tokens + args.tokens * world
        if rank == 0 and (step % 20 == 0 or step < first + 4):
            text, answers = report.tolist()
            speed = (tokens - counted) / (time.time() - began) if began and tokens > counted else 0
            line = {
                "step": step,
                "tokens": tokens,
                "plan": round(where, 4),
                "text": round(text, 4),
                "answers": round(answers, 4),
                "rate": round(rate_at(where, step), 4),
                "tok_s": int(speed),
                "elapsed": round(time.time() - BORN, 1),
                "load_max": round(float(loads.max()) * 4, 2),
                "load_min": round(float(loads.min()) * 4, 2),
            }
            print(json.dumps(line), file=log, flush=True)
            if step % 200 == 0 or step < 5 or step == 20:
                print(json.dumps(line), flush=True)
        if rank == 0 and time.time() - saved > 120:
            checkpoint(net, optimiser, args.out, step, tokens)
            saved = time.time()
        if clock.elapsed >= args.seconds or step - first >= args.steps:
            break
    if rank == 0:
        save_model(net, args.out / "model")
        checkpoint(net, optimiser, args.out, step, tokens)
        memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0
        print(f"done: step {step}, {tokens} tokens, {time.time() - BORN:.0f} s, {memory:.1f} GiB", flush=True)
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()
    os._exit(0)  # the workers have nothing left to say


if __name__ == "__main__":
    main()
