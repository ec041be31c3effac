"""A small model, several times side by side: a parameter [R,…] holds all R runs, which differ in its values alone.

Two launches for R runs cost hardly more than for one, and heads of all runs are heads to the kernels. A layer is a
mixer and an MLP; but for the recurrence (mixing.py) and the gate's size, the three models are the same: short
convolution, sigmoid output gate of low rank, a norm for each head.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.experiments.synthetic.mixing import FORMS
from lab.experiments.synthetic.tasks import NOT, vocabulary
from lab.net import conv_start

EPS = 1e-5


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [R,N,I], weight [R,O,I] -> [R,N,O]."""
    return torch.bmm(x, weight.to(x.dtype).mT)


def norm(x: Tensor, weight: Tensor) -> Tensor:
    """RMS norm of the last dimension; weight [R,D], x [R,…,D]."""
    y = x.float()
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + EPS)
    return (y * weight.view(len(weight), *[1] * (x.dim() - 2), -1)).to(x.dtype)


def short_conv(x: Tensor, weight: Tensor, place: Tensor) -> Tensor:
    """Causal, of width 4, anew with each sequence; SiLU. x [R,N,C], weight [R,C,4], place [N] in the sequence."""
    padded = F.pad(x, (0, 0, 3, 0))
    y = x.float() * weight[:, None, :, 3]
    for back in (1, 2, 3):
        earlier = padded[:, 3 - back : 3 - back + x.shape[1]].float()
        y = y + torch.where((place >= back)[:, None], earlier * weight[:, None, :, 3 - back], 0.0)
    return F.silu(y).to(x.dtype)


class Layer(nn.Module):
    def __init__(self, kind: str, size: dict[str, Any], runs: int, form):
        super().__init__()
        self.form, self.heads, self.dim = form, size["heads"], size["head_dim"]
        width, inner, hidden = size["width"], self.heads * self.dim, size["inner"]
        scale = (2 * size["layers"]) ** -0.5

        def weight(rows: int, columns: int, scale: float = 1.0) -> nn.Parameter:
            return same(torch.randn(rows, columns) * scale * columns**-0.5, runs)

        self.first, self.second = same(torch.ones(width), runs), same(torch.ones(width), runs)
        self.qkv, self.conv = weight(3 * inner, width), same(conv_start(3 * inner), runs)
        self.beta = same(torch.ones(self.heads), runs) if kind == "mamba2" else weight(self.heads, width)
        self.gate_in, self.gate_out = weight(self.dim, width), weight(inner, self.dim)
        forgets = inner if kind == "kda" else self.heads
        self.decay_in, self.decay_out = weight(self.dim, width), weight(forgets, self.dim)
        self.A_log = same(torch.empty(self.heads).uniform_(1, 16).log(), runs)
        step = torch.exp(torch.empty(forgets).uniform_(math.log(1e-3), math.log(1e-1)))
        self.dt_bias = same(step + torch.log(-torch.expm1(-step)), runs)
        self.o_norm, self.out = same(torch.ones(self.dim), runs), weight(width, inner, scale)
        self.up, self.down = weight(2 * hidden, width), weight(width, hidden, scale)

    def before(self, x: Tensor, place: Tensor) -> tuple[Tensor, ...]:
        """q, k, v, a, b [N,R·H,…] as mixing.py takes them, and the output gate's logits [R,N,H·D]."""
        u = norm(x, self.first)
        q, k, v = short_conv(linear(u, self.qkv), self.conv, place).chunk(3, -1)
        decay = linear(linear(u, self.decay_in), self.decay_out)
        gate = linear(linear(u, self.gate_in), self.gate_out)
        return *[self.together(y) for y in (q, k, v, decay, self.strength(u))], gate

    def strength(self, u: Tensor) -> Tensor:
        fixed = self.beta.dim() == 2
        return self.beta.to(u.dtype)[:, None].expand(*u.shape[:2], -1) if fixed else linear(u, self.beta)

    def together(self, x: Tensor) -> Tensor:
        """[R,N,H·D] -> [N,R·H,D]; [R,N,H] -> [N,R·H]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(0, 1).flatten(1, 2).squeeze(-1).contiguous()

    def after(self, x: Tensor, o: Tensor, gate: Tensor) -> Tensor:
        """The mixer's output o [N,R·H,D] into the stream x [R,N,W], then the MLP."""
        apart = norm(o.unflatten(1, (len(x), self.heads)).transpose(0, 1), self.o_norm)
        x = x + linear(apart.flatten(2) * gate.sigmoid(), self.out)
        up, through = linear(norm(x, self.second), self.up).chunk(2, -1)
        return x + linear(F.silu(up) * through, self.down)

    def forward(self, x: Tensor, place: Tensor, batch: int) -> Tensor:
        *rows, gate = self.before(x, place)
        o = self.form(*rows, self.A_log.flatten(), self.dt_bias.flatten(), batch)
        return self.after(x, o, gate)


class Model(nn.Module):
    """``runs`` models of a kind with the same start. rivals: whose kernels the other kinds take on a GPU (config)."""

    def __init__(self, kind: str, own: dict[str, Any], runs: int, device: torch.device):
        super().__init__()
        gpu = device.type == "cuda"
        self.dtype = torch.bfloat16 if gpu else torch.float32
        form, size = FORMS[own["rivals"] if gpu else "own"][kind], own["model"]
        words, width = vocabulary(own["task"]), size["width"]
        self.embed = same(torch.randn(words, width), runs)
        self.layers = nn.ModuleList(Layer(kind, size, runs, form) for _ in range(size["layers"]))
        self.norm, self.head = same(torch.ones(width), runs), same(torch.randn(words, width) * width**-0.5, runs)

    def forward(self, tokens: Tensor, targets: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """tokens, targets [B,T], place [B·T] -> loss [R] and share of right answers [R], of those that are asked."""
        x = self.embedded(tokens.flatten())
        for layer in self.layers:
            x = layer(x, place, len(tokens))
        return self.judged(x, targets.flatten())

    def embedded(self, tokens: Tensor) -> Tensor:
        runs, words, width = self.embed.shape
        rows = torch.arange(runs, device=tokens.device)[:, None] * words + tokens
        return self.embed.reshape(-1, width).index_select(0, rows.flatten()).view(runs, -1, width).to(self.dtype)

    def judged(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits, asked = linear(norm(x, self.norm), self.head).float(), targets != NOT
        each = F.cross_entropy(logits.flatten(0, 1), targets.repeat(len(x)), reduction="none", ignore_index=NOT)
        right = (logits.argmax(-1) == targets) & asked
        return each.view(len(x), -1).sum(1) / asked.sum(), right.sum(1) / asked.sum()


def same(start: Tensor, runs: int) -> nn.Parameter:
    """The same start for every run."""
    return nn.Parameter(start.expand(runs, *start.shape).clone())


def flattened(model: nn.Module) -> Tensor:
    """All parameters [R,P], of which they become views: an optimizer of one tensor, and a row for each run."""
    found = list(model.parameters())
    flat = joined(found)
    at = 0
    for p in found:
        p.data = flat[:, at : at + p[0].numel()].view(p.shape)
        at += aligned(p)
    return flat


@torch.no_grad()
def joined(parts: list[Tensor]) -> Tensor:
    """Parameters or their gradients [R,…] as one [R,P]."""
    return torch.cat([F.pad(x.flatten(1), (0, aligned(x) - x[0].numel())) for x in parts], 1)


def aligned(x: Tensor) -> int:
    """Numbers of a run's part, up to a multiple of 64: compiled kernels want aligned addresses."""
    return -(-x[0].numel() // 64) * 64


def compile_parts() -> None:
    """Fuse what lies between the kernels. A part is compiled for every kind and number of runs, not for lengths."""
    torch._dynamo.config.recompile_limit = 64
    for owner, name in ((Layer, "before"), (Layer, "after"), (Model, "judged")):
        setattr(owner, name, torch.compile(getattr(owner, name), dynamic=False))
