"""Muon for matrices (same shapes together), AdamW for the rest; all gradients in one flat buffer."""

from collections import defaultdict

import torch
import torch.distributed as dist
from torch import Tensor

from lab.net import Net

ADAM = ("embed_tokens", "lm_head", "conv1d", ".b_proj", "mlp.gate", "A_log", "dt_bias", "norm")


def by_adam(name: str) -> bool:
    return name.endswith(ADAM)


def newton_schulz(g: Tensor, steps: int = 5) -> Tensor:
    """The nearest orthogonal matrix, roughly, of each of a stack of wide matrices."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16() / (g.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x


def as_stack(name: str, x: Tensor, inner: int) -> Tensor:
    """A parameter as wide matrices: experts (`inner` rows each) one by one, tall ones transposed."""
    if name.endswith((".w1", ".w3")):
        x = x.view(-1, inner, x.shape[1])
    elif name.endswith(".w2"):
        x = x.t().view(-1, inner, x.shape[0])
    else:
        x = x[None]
    return x.mT if x.shape[-2] > x.shape[-1] else x


class Optimiser:
    def __init__(self, net: Net, muon_rate: float, adam_rate: float, decay: float = 0.05, momentum: float = 0.95):
        self.muon_rate, self.adam_rate, self.decay, self.momentum = muon_rate, adam_rate, decay, momentum
        self.inner = net.config["moe_intermediate_size"]
        named = list(net.named_parameters())
        self.flat = torch.zeros(sum(p.numel() for _, p in named), device=named[0][1].device)
        start = 0
        for _, p in named:
            p.grad = self.flat[start : start + p.numel()].view_as(p)
            start += p.numel()
        adam = [p for n, p in named if by_adam(n)]
        self.adam = torch.optim.AdamW(
            adam, lr=adam_rate, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0, fused=self.flat.is_cuda
        )
        self.groups = defaultdict(list)
        for n, p in named:
            if not by_adam(n):
                self.groups[tuple(as_stack(n, p, self.inner).shape[1:])].append((n, p, torch.zeros_like(p)))

    def gather(self) -> None:
        """Mean gradient over the processes, nothing that is not a number, and length at most one."""
        if dist.is_initialized():
            dist.all_reduce(self.flat)
            self.flat.div_(dist.get_world_size())
        self.flat.nan_to_num_(0.0, 0.0, 0.0)
        self.flat.mul_((1.0 / (self.flat.norm() + 1e-6)).clamp(max=1.0))

    @torch.no_grad()
    def step(self, share: float) -> None:
        self.gather()
        for group in self.adam.param_groups:
            group["lr"] = self.adam_rate * share
        self.adam.step()
        for shape, members in self.groups.items():
            self.muon(shape, members, share)
        self.flat.zero_()

    def muon(self, shape: tuple[int, int], members: list, share: float) -> None:
        grads, moments = [p.grad for _, p, _ in members], [m for _, _, m in members]
        torch._foreach_lerp_(moments, grads, 1 - self.momentum)
        looked = torch._foreach_lerp(grads, moments, self.momentum)
        stacks = [as_stack(n, x, self.inner) for (n, _, _), x in zip(members, looked, strict=True)]
        update = newton_schulz(torch.cat(stacks)).split([len(s) for s in stacks])
        rate = self.muon_rate * share
        for (name, p, _), part in zip(members, update, strict=True):
            p.mul_(1 - rate * self.decay)
            view = as_stack(name, p, self.inner)
            view.add_(part.to(p.dtype), alpha=-rate * 0.2 * max(shape) ** 0.5)

    def state(self) -> dict[str, Tensor]:
        found = {f"muon.{n}": m for members in self.groups.values() for n, _, m in members}
        for i, s in self.adam.state_dict()["state"].items():
            found |= {f"adam.{i}.{k}": v for k, v in s.items()}
        return found

    def load(self, tensors: dict[str, Tensor]) -> None:
        for members in self.groups.values():
            for n, _, m in members:
                m.copy_(tensors[f"muon.{n}"])
        state = self.adam.state_dict()
        for i in state["param_groups"][0]["params"]:
            state["state"][i] = {k: tensors[f"adam.{i}.{k}"] for k in ("step", "exp_avg", "exp_avg_sq")}
        self.adam.load_state_dict(state)
