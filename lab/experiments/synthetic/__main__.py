"""Palindrome, MQAR and Stack: KDA against Gated DeltaNet and Mamba2, by length.

    python -m lab.experiments.synthetic [--only mqar-1024] [--seconds 600] [--miniature]

A case is a task, a length and a model, with all learning rates at once. Figures: `peak`, the best accuracy of any rate
at any look, its `rate` and `step`; `curves` by rate, [step, accuracy, loss], each point the mean over the batches since
the last, which are always fresh. What is cut short by --seconds goes on with the same command. Plots at the end.
"""

import time
from typing import Any

import torch

from lab.experiments.common import Checkpoint, Clock, Results, arguments, settings, wanted
from lab.experiments.synthetic.learner import Learner
from lab.experiments.synthetic.model import compile_parts
from lab.experiments.synthetic.plots import draw

MARGIN = 20.0  # seconds before the end at which a look is no longer begun
SAVING = 30.0  # seconds between checkpoints


def main() -> None:
    args = arguments(__doc__ or "", "synthetic")
    own, results, clock = settings(args.config, args.miniature), Results(args.out), Clock(args.seconds - MARGIN)
    if args.device.type == "cuda":
        compile_parts()
    for task, length, kind in cases(own):
        case, of = f"{task}-{length}-{kind}", setting(own, task, length, kind)
        if wanted(case, args.only) and not results.done(case, of) and not clock.over():
            checkpoint = Checkpoint(args.checkpoints / f"{case}.pt")
            learner = Learner(task, length, kind, own, args.device)
            if run(case, learner, checkpoint, clock):
                results.put(case, of, **figures(learner))
                checkpoint.drop()
    draw(results.all(), args.out)


def cases(own: dict[str, Any]) -> list[tuple[str, int, str]]:
    return [(task, length, kind) for length in own["lengths"] for task in own["tasks"] for kind in own["models"]]


def setting(own: dict[str, Any], task: str, length: int, kind: str) -> dict[str, Any]:
    """What a case depends on: not which others there are."""
    shared = {name: own[name] for name in ("rivals", "task", "model", "training")}
    return {"of": task, "length": length, "kind": kind} | shared


def run(case: str, learner: Learner, checkpoint: Checkpoint, clock: Clock) -> bool:
    """Goes on from the checkpoint until the case is ended or the time is up: whether it is ended."""
    state = checkpoint.load(learner.device)
    if state:
        learner.load(state)
    first, spent, steps, saved = learner.step, learner.seconds, learner.plan["steps"], time.monotonic()
    while not learner.ended() and not clock.over():
        learner.look()
        rate = (learner.step - first) / (learner.seconds - spent)
        best = max(learner.rates, key=lambda r: learner.curves[str(r)][-1][1])
        accuracy, loss = learner.curves[str(best)][-1][1:]
        clock.say(case, learner.step, steps, rate, accuracy=accuracy, loss=loss, lr=best, runs=len(learner.rates))
        if time.monotonic() - saved > SAVING:
            checkpoint.save(**learner.state())
            saved = time.monotonic()
    checkpoint.save(**learner.state())
    return learner.ended()


def figures(learner: Learner) -> dict[str, Any]:
    points = [(point[1], -point[0], rate) for rate, curve in learner.curves.items() for point in curve]
    peak, step, rate = max(points)
    size = sum(p[0].numel() for p in learner.model.parameters())
    found = {"peak": peak, "rate": float(rate), "step": -step, "steps": learner.step, "curves": learner.curves}
    return found | {"parameters": size, "batch": learner.batch, "seconds": round(learner.seconds, 1)}


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main()
