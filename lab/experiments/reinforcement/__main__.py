"""A policy gradient on sums, models against each other from equal starting points.

    python -m lab.experiments.reinforcement [--only hybrid-1] [--seconds 600] [--miniature]

A case is a model and a seed: it is taught by examples until its mean chance of a right answer is the one wanted, then
rewarded. Figures: the curve by updates of the reward while training (`train`, of the sampled answers), of the test's
sums (`sampled`: mean chance of the right answer at temperature 1; `greedy`: share right), and of KL from the start in
nats an answer. What is cut short by --seconds goes on with the same command.
"""

import time
from pathlib import Path

import torch

from lab.experiments.common import Checkpoint, Clock, Results, arguments, progress
from lab.experiments.reinforcement.learner import Learner

SAVING = 30  # seconds


def main() -> None:
    args = arguments(__doc__)
    results, clock, own = Results(args.out), Clock(args.seconds), args.settings
    for case, kind, seed in ((f"{kind}-{seed}", kind, seed) for seed in own["seeds"] for kind in own["models"]):
        wanted = not args.only or any(word in case for word in args.only)
        if wanted and not results.done(case, own) and not clock.over():
            run(case, Learner(kind, seed, own, args.device), results, clock, args.out / "checkpoints", own)


def run(case: str, learner: Learner, results: Results, clock: Clock, folder: Path, own: dict) -> None:
    """Goes on from the checkpoint until the case is done or the time is up."""
    checkpoint, saved, updates = Checkpoint(folder / f"{case}.pt"), time.monotonic(), own["rewarding"]["updates"]
    state = checkpoint.load()
    if state:
        learner.load(state)
    while learner.updates < updates and not clock.over():
        advance(case, learner)
        if time.monotonic() - saved > SAVING:
            checkpoint.save(learner.state())
            saved = time.monotonic()
    checkpoint.save(learner.state())
    if learner.updates >= updates:
        results.put(case, own, parameters=count(learner.net), taught=learner.taught, curve=learner.curve)


def advance(case: str, learner: Learner) -> None:
    if learner.teach():
        return
    if learner.updates < 0:
        learner.begin()
        progress(f"{case}: taught in {learner.taught} steps, {learner.curve[-1]}")
    learner.update()
    if learner.updates % 50 == 0:
        progress(f"{case}: {learner.curve[-1]}")


def count(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


if __name__ == "__main__":
    main()
