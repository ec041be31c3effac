"""RULER's kinds of task and a search for a function, within the trained length and beyond, at equal size and tokens.

    python -m lab.experiments.longcontext [--only hybrid] [--seconds 600] [--miniature]

A case is a model and a seed: trained on all tasks and running text, then asked at every length. Figures: `scores`, for
each task and length the per cent of answers that are right whole, with n and a 95 % interval; `curve`, the loss on
answers and on text. What is cut short by --seconds goes on with the same command.
"""

import time
from typing import Any

import torch
from torch import Tensor

from lab.experiments.common import Checkpoint, Clock, Results, arguments, settings, wanted
from lab.experiments.longcontext.rows import measured, stream
from lab.experiments.longcontext.tasks import ASKED, Source
from lab.experiments.longcontext.text import Texts, texts
from lab.experiments.rivals import Rival, rival, share
from lab.net import Row
from lab.optim import Optimiser

SAVING = 30  # seconds
WORKERS = 8  # that draw rows for a GPU


def main() -> None:
    args = arguments(__doc__ or "", "longcontext")
    own, results, clock = settings(args.config, args.miniature), Results(args.out), Clock(args.seconds)
    named = [(f"{kind}-{seed}", kind, seed) for seed in own["seeds"] for kind in own["models"]]
    left = [one for one in named if wanted(one[0], args.only) and not results.done(one[0], own)]
    if left:
        found = texts(own["model"]["vocabulary"], own["files"] or None)
        tokens, functions = (sum(map(len, parts)) for parts in (found.running, found.functions))
        print(f"{tokens} tokens of text, {functions} functions, {clock.seconds - clock.left():.0f} s", flush=True)
    for case, kind, seed in left:
        if not clock.over():
            run = Run(kind, seed, own, found, args.device, Checkpoint(args.checkpoints / f"{case}.pt"))
            if run.train(clock, case) and run.test(clock, case):
                size = sum(p.numel() for p in run.net.parameters())
                results.put(case, own, parameters=size, curve=run.curve, scores=run.scores)
                run.checkpoint.drop()


class Run:
    def __init__(self, kind: str, seed: int, own: dict, found: Texts, device: torch.device, checkpoint: Checkpoint):
        torch.manual_seed(seed)
        self.own, self.found, self.device, self.checkpoint = own, found, device, checkpoint
        self.training = own["training"] | {"seed": seed}
        self.net: Rival = rival(kind, own["model"], device)
        self.optimiser = Optimiser(self.net, self.training["muon"], self.training["adam"])
        self.step, self.curve, self.scores = 0, list[dict[str, float]](), dict[str, dict[str, Any]]()
        state = checkpoint.load(device)
        if state:
            self.net.load_state_dict(state["net"])
            self.optimiser.load(state["optimiser"])
            self.step, self.curve, self.scores = state["step"], state["curve"], state["scores"]

    def save(self) -> None:
        held = {"net": self.net.state_dict(), "optimiser": self.optimiser.state()}
        self.checkpoint.save(**held, step=self.step, curve=self.curve, scores=self.scores)

    def train(self, clock: Clock, case: str) -> bool:
        """Whether all steps are taken."""
        gpu, steps, first = self.device.type == "cuda", self.training["steps"], self.step
        source, began = Source.of(self.found, False), time.monotonic()
        saved = began
        for row in stream(source, self.training, self.step, WORKERS if gpu else 0, gpu) if self.step < steps else ():
            losses = self.learn(row)
            self.step += 1
            if self.step % self.training["look"] == 0:
                answers, text = losses.tolist()
                self.curve.append({"step": self.step, "answers": answers, "text": text})
                rate = (self.step - first) / (time.monotonic() - began)
                clock.say(case, self.step, steps, rate, answers=answers, text=text)
            if clock.over():
                break
            if time.monotonic() - saved > SAVING:
                self.save()
                saved = time.monotonic()
        self.save()
        return self.step == steps

    def learn(self, row: tuple[Tensor, ...]) -> Tensor:
        """A step; the mean loss on answers and on running text, not read yet."""
        tokens, targets, weights = (x.to(self.device, non_blocking=True) for x in row[:3])
        x, _ = self.net.hidden(tokens, Row(row[3], self.device))
        losses = self.net.losses(x, targets)
        (losses * weights).sum().div(weights.sum()).backward()
        self.optimiser.step(share(self.step, self.training["steps"]))
        parts = weights == 1.0, (weights > 0.0) & (weights < 1.0)
        return torch.stack([(losses.detach() * part).sum() / part.sum().clamp(min=1) for part in parts])

    def test(self, clock: Clock, case: str) -> bool:
        """Asks at every length what was not asked yet; whether all is."""
        source, own = Source.of(self.found, True), self.own["testing"]
        for length in own["lengths"]:
            for task in ASKED:
                if f"{task}-{length}" not in self.scores and not clock.over():
                    found = measured(self.net, source, task, length, own["count"], own["tokens"])
                    self.scores[f"{task}-{length}"] = found
            line = [f"{task} {self.scores.get(f'{task}-{length}', {}).get('value')}" for task in ASKED]
            print(f"{case} at {length}: {', '.join(line)}", flush=True)
        self.save()
        return len(self.scores) == len(own["lengths"]) * len(ASKED)


if __name__ == "__main__":
    main()
