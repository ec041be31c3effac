"""The learning rates of a case, all at once on the same batches; those that cannot win are left out on the way."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from lab.experiments.synthetic.model import Model, flattened, joined
from lab.experiments.synthetic.tasks import make

BETAS, EPS = (0.9, 0.95), 1e-8


class Learner:
    """``rates``: those still in the race; ``curves``: by rate, [step, accuracy, loss] at every look."""

    def __init__(self, task: str, length: int, kind: str, own: dict[str, Any], device: torch.device):
        self.task, self.length, self.kind, self.own, self.device = task, length, kind, own, device
        self.plan = own["training"]
        self.batch = max(1, self.plan["tokens"] // length)
        self.rates: list[float] = list(self.plan["rates"])
        self.curves: dict[str, list[list[float]]] = {str(rate): [] for rate in self.rates}
        self.step, self.seconds = 0, 0.0
        self.begin()

    def begin(self) -> None:
        """Model, optimizer and buffers for the rates that are left."""
        torch.manual_seed(self.plan["seed"])
        self.model = Model(self.kind, self.own, len(self.rates), self.device).to(self.device)
        self.weights = flattened(self.model)
        self.mean, self.square = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        self.rate = torch.tensor(self.rates, device=self.device)[:, None]
        self.count = torch.full((1,), float(self.step), device=self.device)
        self.sums = torch.zeros(2, len(self.rates), device=self.device)
        self.place = torch.arange(self.length, device=self.device).repeat(self.batch)
        self.tokens, self.targets = (
            torch.zeros(self.batch, self.length, dtype=torch.long, device=self.device) for _ in "12"
        )
        self.take: Callable[[], None] | None = None

    def take_step(self) -> None:
        """One step on the batch that lies in the buffers; adds accuracy and loss to ``sums``."""
        loss, right = self.model(self.tokens, self.targets, self.place)
        self.descend(joined(torch.autograd.grad(loss.sum(), list(self.model.parameters()))))
        self.sums.add_(torch.stack([right, loss.detach()]))

    @torch.no_grad()
    def descend(self, grad: Tensor) -> None:
        """Adam, each run with its own rate and its own clipping."""
        plan, (first, second) = self.plan, BETAS
        self.count += 1
        size = grad.norm(dim=1, keepdim=True)
        grad.mul_((plan["clip"] / (size + 1e-6)).clamp(max=1.0))
        self.mean.lerp_(grad, 1 - first)
        self.square.lerp_(grad.square(), 1 - second)
        share = (self.count / plan["warm"]).clamp(max=1.0) * (1 - 0.9 * self.count / plan["steps"])
        rate = self.rate * share / (1 - first**self.count)
        self.weights.sub_(rate * self.mean / ((self.square / (1 - second**self.count)).sqrt() + EPS))

    def look(self) -> None:
        """Steps until the next point of the curve. Batches depend on the step alone: a run taken up gets the same."""
        began = time.monotonic()
        generator = Generator(self.device).manual_seed(self.plan["seed"] * 1_000_003 + self.step)
        self.fill(generator)
        self.take = self.take or (recorded(self) if self.device.type == "cuda" else self.take_step)
        steps = min(self.plan["look"], self.plan["steps"] - self.step)
        self.sums.zero_()
        for _ in range(steps):
            self.take()
            self.fill(generator)
        self.step += steps
        for rate, right, loss in zip(self.rates, *(self.sums / steps).tolist(), strict=True):
            self.curves[str(rate)].append([self.step, round(right, 5), round(loss, 5)])
        self.seconds += time.monotonic() - began
        self.halve()

    def fill(self, generator: Generator) -> None:
        tokens, targets = make(self.task, self.own["task"], self.batch, self.length, generator)
        self.tokens.copy_(tokens)
        self.targets.copy_(targets)

    def halve(self) -> None:
        """Leaves out the rates with the greatest loss where the plan says so."""
        most = min((keep for step, keep in self.plan["halve"] if self.step >= step), default=len(self.rates))
        if most < len(self.rates):
            order = sorted(range(len(self.rates)), key=lambda n: self.curves[str(self.rates[n])][-1][2])
            self.narrow(sorted(order[:most]))

    def narrow(self, kept: list[int]) -> None:
        state = [x[kept].clone() for x in (self.weights, self.mean, self.square)]
        self.rates = [self.rates[n] for n in kept]
        self.begin()
        self.put(state)

    def put(self, state: list[Tensor]) -> None:
        for to, x in zip((self.weights, self.mean, self.square), state, strict=True):
            to.copy_(x)

    def ended(self) -> bool:
        """All steps made, or one of the rates has learnt all there is."""
        last = [curve[-self.plan["times"] :] for curve in self.curves.values()]
        through = [c for c in last if len(c) == self.plan["times"] and min(p[1] for p in c) >= self.plan["enough"]]
        return self.step >= self.plan["steps"] or bool(through)

    def state(self) -> dict[str, Any]:
        tensors = {"weights": self.weights, "mean": self.mean, "square": self.square}
        return tensors | {name: getattr(self, name) for name in ("rates", "curves", "step", "seconds")}

    def load(self, state: dict[str, Any]) -> None:
        for name in ("rates", "curves", "step", "seconds"):
            setattr(self, name, state[name])
        self.begin()
        self.put([state[name] for name in ("weights", "mean", "square")])


def recorded(learner: Learner) -> Callable[[], None]:
    """The step as a CUDA graph: kernels compile and tune in three steps of their own, which are then undone."""
    kept = [learner.weights.clone(), learner.mean.clone(), learner.square.clone(), learner.count.clone()]
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            learner.take_step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        learner.take_step()
    learner.put(kept[:3])
    learner.count.copy_(kept[3])
    return graph.replay
