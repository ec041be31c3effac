"""Train by the clock: `python -m lab.train --seconds 570 --plan-to 0.5 --out DIR` (torchrun for several GPUs).

Goes on where the checkpoint in DIR, or the weights given, left the plan, and runs it as far as `--plan-to`. What is to
travel lies in DIR/weights.safetensors and DIR/state.json, renewed every minute.
"""

import argparse
import json
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist

from lab import probe
from lab.clock import BORN, Clock, Counted
from lab.loader import batches
from lab.net import Net, Row, compile_parts, read_config
from lab.optim import Optimiser
from lab.plan import rate_at
from lab.restart import State, resume, save

SETTLED = 3  # steps until everything is compiled
SAVING = 200  # seconds: a save takes one or two


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60, help="since the program began")
    parser.add_argument("--steps", type=int, help="instead of seconds: the plan goes by steps")
    parser.add_argument("--plan-to", type=float, default=1.0)
    parser.add_argument("--tokens", type=int, default=65536, help="per process and step")
    parser.add_argument("--muon", type=float, default=5e-3)
    parser.add_argument("--adam", type=float, default=3e-3)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with tables/ and corpus/, for --probe with held/"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path("lab/shape.json"))
    parser.add_argument("--weights", type=Path, help="begin with these where there is no checkpoint; state.json beside")
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--probe", action="store_true", help="measure on what is held out, at the end")
    parser.add_argument("--profile", action="store_true", help="where the time of four steps goes: OUT/profile.txt")
    return parser.parse_args()


def one_step(net: Net, batch: tuple, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of a batch; (loss on text, loss on answers), not read yet, and the experts' loads."""
    tokens, targets, weights = (x.to(device, non_blocking=True) for x in batch[:3])
    losses, loads = net.gradients(tokens, targets, weights, Row(batch[3], device))
    with torch.no_grad():
        net.balance(mean_over_processes(loads), 1e-3)
        text, answers = weights == 1.0, weights > 1.0
        return torch.stack([(losses * m).sum() / m.sum().clamp(min=1) for m in (text, answers)]), loads


def mean_over_processes(x: torch.Tensor) -> torch.Tensor:
    if dist.is_initialized():
        dist.all_reduce(x)
        x /= dist.get_world_size()
    return x


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


def main() -> None:
    args = options()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    torch.manual_seed(1)
    args.out.mkdir(parents=True, exist_ok=True)
    net = Net(read_config(args.config), torch.bfloat16 if device.type == "cuda" else torch.float32).to(device)
    optimiser = Optimiser(net, args.muon, args.adam)
    state = resume(net, optimiser, args.out, args.weights)
    seed = state.run * 1000 + rank * 100
    stream, progress = batches(args.tokens, args.data / "tables", args.data / "corpus", seed, args.workers, state.plan)
    if not args.eager:
        compile_parts()
        warm(net, optimiser, args.tokens, device)
    if rank == 0:
        print(f"warm after {time.time() - BORN:.0f} s: {state}", flush=True)
    train(args, net, optimiser, stream, progress, state, device)
    if args.probe:
        probe.run(net, args.data, args.out, args.tokens, rank, world, device)
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()
    os._exit(0)  # the workers have nothing left to say


def train(args, net, optimiser, stream, progress, state: State, device) -> None:
    """Steps until the clock has run out; rank 0 keeps the log and saves."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    clock = (
        Counted(args.steps, state.plan, args.plan_to)
        if args.steps
        else Clock(args.seconds, state.plan, args.plan_to, device)
    )
    log = Log(args.out / "curve.jsonl", state) if rank == 0 else None
    first, saved = state.step, time.time()
    profile = profiler(args.out) if args.profile and rank == 0 else None
    while not clock.over():
        report, loads = one_step(net, next(stream), device)
        optimiser.step(rate_at(state.plan, state.step - state.warm_from))
        state.step, state.tokens = state.step + 1, state.tokens + args.tokens * world
        if profile:
            profile.step()
        if state.step == first + SETTLED:
            clock.begin()
        if state.step >= first + SETTLED or args.steps:
            clock.tick(state.step - first)
        state.plan = progress.value = clock.progress()
        if log and (state.step % 20 == 0 or state.step <= first + SETTLED):
            log.line(state, report, loads)
        if log and time.time() - saved > SAVING:
            save(net, optimiser, state, args.out)
            saved = time.time()
    if log:
        save(net, optimiser, state, args.out)
        memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0
        print(f"done: {state}, {time.time() - BORN:.0f} s, {memory:.1f} GiB", flush=True)


def profiler(out: Path) -> torch.profiler.profile:
    """Started. After a few steps it writes how long kernels and their launching took in four, longest first."""

    def write(found: torch.profiler.profile) -> None:
        key = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        (out / "profile.txt").write_text(found.key_averages().table(sort_by=key, row_limit=60))

    schedule = torch.profiler.schedule(skip_first=SETTLED, wait=5, warmup=1, active=4, repeat=1)
    made = torch.profiler.profile(schedule=schedule, on_trace_ready=write)
    made.start()
    return made


class Log:
    """A line of JSON every so many steps; tokens a second since the third step of this run."""

    def __init__(self, file: Path, state: State):
        self.file, self.first, self.began = open(file, "a"), state.step, 0.0  # noqa: SIM115
        self.counted = 0

    def line(self, state: State, report: torch.Tensor, loads: torch.Tensor) -> None:
        text, answers = report.tolist()
        if state.step == self.first + SETTLED:
            self.began, self.counted = time.time(), state.tokens
        speed = (state.tokens - self.counted) / max(1e-3, time.time() - self.began) if self.began else 0
        line = {
            "step": state.step,
            "tokens": state.tokens,
            "plan": round(state.plan, 4),
            "text": round(text, 4),
            "answers": round(answers, 4),
            "rate": round(rate_at(state.plan, state.step - state.warm_from), 4),
            "tok_s": int(speed),
            "elapsed": round(time.time() - BORN, 1),
            "load_max": round(float(loads.max()) * loads.shape[1] / 2, 2),
            "load_min": round(float(loads.min()) * loads.shape[1] / 2, 2),
        }
        print(json.dumps(line), file=self.file, flush=True)
        if state.step % 200 == 0 or state.step <= self.first + 20:
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
