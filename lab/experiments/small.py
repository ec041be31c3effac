"""The trainer of ablations and scaling: small Kimi Linear models on running text, equal FLOPs, one GPU or a CPU.

A case is its settings: ``model`` (see `shape`), ``train``, ``held``, ``parcels``, ``flops`` and ``seed``. The batches
of a seed are the same whatever the model is, so that differences can be taken seed by seed.
"""

import argparse
import functools
import gc
import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.experiments import flops
from lab.experiments.common import Checkpoint, Clock, Results, wanted
from lab.experiments.text import Text, windows
from lab.net import Experts, Net, Row, compile_parts
from lab.optim import Optimiser
from lab.plan import rate_at

WARM = 3  # passes before a graph is captured
ROUND = 65536  # tokens of a forward pass of the held-out text
BALANCE = 1e-3


def shape(model: dict[str, Any]) -> dict[str, Any]:
    """config.json of a model: ``vocabulary``, ``layers``, ``hidden``, ``heads``, ``head_dim``.

    ``ratio`` KDA layers to one MLA; 0: MLA alone; not below ``layers``: KDA alone. ``gate``, ``conv``, ``rope``: see
    lab.net. A quarter of a key is its shared part, the one that RoPE turns.
    """
    layers, hidden, heads, dim = (model[name] for name in ("layers", "hidden", "heads", "head_dim"))
    full = list(range(model["ratio"] + 1, layers + 1, model["ratio"] + 1))
    linear = {"num_heads": heads, "head_dim": dim, "output_gate": model["gate"], "full_attn_layers": full}
    linear |= {"short_conv_kernel_size": 4 if model["conv"] else 0}
    linear |= {"kda_layers": [n for n in range(1, layers + 1) if n not in full]}
    mla = {"num_attention_heads": heads, "kv_lora_rank": hidden // 4, "v_head_dim": dim}
    mla |= {"qk_rope_head_dim": dim // 4, "qk_nope_head_dim": dim - dim // 4}
    mlp = {"intermediate_size": 2 * hidden, "first_k_dense_replace": 1, "moe_intermediate_size": hidden // 2}
    mlp |= {"num_experts": 4, "num_experts_per_token": 2, "num_shared_experts": 2}
    other = {"rms_norm_eps": 1e-5, "kv_a_layernorm_eps": 1e-5, "tie_word_embeddings": True}
    other |= {"vocab_size": model["vocabulary"], "hidden_size": hidden, "num_hidden_layers": layers}
    other |= {"rope_theta": 1e4, "mla_use_nope": not model["rope"]}
    return {"linear_attn_config": linear} | mla | mlp | other


def budget(model: dict[str, Any], length: int, tokens: float) -> float:
    """FLOPs that a model takes to train on so many tokens."""
    return tokens * flops.training(shape(model), length)


def steps_of(settings: dict[str, Any]) -> int:
    """As many as the FLOPs buy."""
    train = settings["train"]
    return max(1, round(settings["flops"] / budget(settings["model"], train["length"], train["tokens"])))


def run(args: argparse.Namespace, cases: Iterable[tuple[str, dict[str, Any]]], parcels: str) -> Results:
    """Trains the cases that are wanted and not there, in their order, until the seconds are over."""
    results, clock = Results(args.out), Clock(args.seconds)
    left = [(case, own) for case, own in cases if wanted(case, args.only) and not results.done(case, own)]
    text = Text.load(Path(parcels), args.device) if left else None
    for case, own in left:
        if clock.over():
            break
        model = Run(own, text, args.device, Checkpoint(args.checkpoints / f"{case}.pt"))
        if model.train(case, clock):
            results.put(case, own, **model.figures())
            model.checkpoint.drop()
        del model
        gc.collect()  # a captured graph and its memory
    return results


@functools.cache
def compiled() -> None:
    """Once a process; models of several shapes share the compiled code as far as they are alike."""
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 1024
    torch.set_float32_matmul_precision("high")
    compile_parts()


class Run:
    """A model from its first step to its last; goes on from its checkpoint."""

    def __init__(self, settings: dict[str, Any], text: Text, device: torch.device, checkpoint: Checkpoint) -> None:
        torch.manual_seed(settings["seed"])
        self.settings, self.text, self.device, self.checkpoint = settings, text, device, checkpoint
        self.rules, self.config = settings["train"], shape(settings["model"])
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.net = Net(self.config, dtype).to(device)
        self.optimiser = Optimiser(self.net, self.rules["muon"], self.rules["adam"])
        self.steps, self.step, self.seconds, self.curve = steps_of(settings), 0, 0.0, list[list[float]]()
        self.row, count = rectangle(self.rules["tokens"], self.rules["length"], device)
        self.starts = torch.zeros(count, dtype=torch.long, device=device)
        self.weights, self.loss = torch.ones(self.rules["tokens"], device=device), torch.zeros((), device=device)
        self.load()

    def load(self) -> None:
        state = self.checkpoint.load(self.device)
        if state and state["settings"] == json.dumps(self.settings):
            self.net.load_state_dict(state["net"])
            self.optimiser.load(state["optimiser"])
            self.step, self.seconds, self.curve = state["step"], state["seconds"], state["curve"]

    def save(self) -> None:
        about = {"settings": json.dumps(self.settings), "step": self.step, "seconds": self.seconds, "curve": self.curve}
        self.checkpoint.save(net=self.net.state_dict(), optimiser=self.optimiser.state(), **about)

    def train(self, case: str, clock: Clock) -> bool:
        """Whether it is through; else it is saved, at a look."""
        gradients, look = self.gradients_on_gpu() if self.device.type == "cuda" else self.gradients, self.rules["look"]
        began = time.monotonic()
        while self.step < self.steps:
            self.one_step(gradients)
            if self.step % look == 0 or self.step == self.steps:
                self.note((self.step - 1) % look + 1)
                self.seconds, began = self.seconds + time.monotonic() - began, time.monotonic()
                rate, loss = self.step / self.seconds, self.curve[-1][1]
                clock.say(case, self.step, self.steps, rate, loss=loss, tok_s=rate * self.rules["tokens"])
                if clock.over() and self.step < self.steps:
                    self.save()
                    return False
        return True

    def one_step(self, gradients: Callable[[], None]) -> None:
        self.draw()
        gradients()
        self.optimiser.step(rate_at(self.step / self.steps, self.step, self.rules["warmup"], self.rules["level_until"]))
        self.step += 1

    def draw(self) -> None:
        """The batch of this seed and step."""
        pick = torch.Generator().manual_seed(self.settings["seed"] * 1_000_003 + self.step)
        most = len(self.text.train) - self.rules["length"]
        self.starts.copy_(torch.randint(most, self.starts.shape, generator=pick), non_blocking=True)

    def gradients(self) -> None:
        tokens, targets = windows(self.text.train, self.starts, self.rules["length"])
        losses, loads = self.net.gradients(tokens, targets, self.weights, self.row)
        self.net.balance(loads, BALANCE)
        self.loss += losses.mean()

    def gradients_on_gpu(self) -> Callable[[], None]:
        """One graph: the small layers' many launches would otherwise take longer than the arithmetic."""
        compiled()
        biases = [layer.mlp.bias for layer in self.net.layers if isinstance(layer.mlp, Experts)]
        kept, stream = [bias.clone() for bias in biases], torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM):
                self.gradients()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.gradients()
        for bias, value in zip(biases, kept, strict=True):
            bias.copy_(value)
        self.optimiser.flat.zero_()
        self.loss.zero_()
        return graph.replay

    def note(self, steps: int) -> None:
        self.curve.append([self.step, round(float(self.loss) / steps, 4)])
        self.loss.zero_()

    @torch.no_grad()
    def held(self) -> tuple[Tensor, Tensor]:
        """Nats and bytes [windows] of held-out windows, spread evenly over all of the text."""
        length, most = self.rules["length"], self.settings["held"]
        starts = torch.linspace(0, len(self.text.held) - length - 1, most, dtype=torch.float64).long().to(self.device)
        found = []
        for some in starts.split(max(1, ROUND // length)):
            tokens, targets = windows(self.text.held, some, length)
            x, _ = self.net.hidden(tokens, rectangle(len(tokens), length, self.device)[0])
            nats = torch.cat([self.net.losses(*part) for part in zip(x.split(4096), targets.split(4096), strict=True)])
            found.append(torch.stack([nats, self.text.bytes[targets].float()]).view(2, -1, length).sum(-1))
        return tuple(torch.cat(found, 1).double().cpu())

    def figures(self) -> dict[str, Any]:
        with torch.compiler.set_stance("force_eager"):
            nats, sizes = self.held()
        tokens, length = self.steps * self.rules["tokens"], self.rules["length"]
        found = {"loss": float(nats.mean()) / length, "bits_per_byte": float(nats.sum() / sizes.sum()) / math.log(2)}
        found |= {"steps": self.steps, "tokens": tokens, "spent_flops": budget(self.settings["model"], length, tokens)}
        found |= {"parameters": sum(p.numel() for p in self.net.parameters()), "tok_s": round(tokens / self.seconds)}
        every = {"nats": [round(x, 2) for x in nats.tolist()], "bytes": sizes.long().tolist()}
        return found | {"seconds": round(self.seconds, 1), "curve": self.curve, "windows": every}


def rectangle(tokens: int, length: int, device: torch.device) -> tuple[Row, int]:
    """A row of sequences of one length, and how many. ValueError: they do not fill it."""
    if tokens % length:
        raise ValueError(f"{tokens} tokens a step are not sequences of {length}")
    return Row(torch.arange(0, tokens + 1, length, dtype=torch.int32), device), tokens // length
