"""A policy gradient on sums, models against each other from equal starting points.

    python -m lab.experiments.reinforcement [--only hybrid-1] [--seconds 600] [--miniature]

A case is a model and a seed: it is taught by examples until its mean chance of a right answer is the one wanted, then
rewarded. Figures: the curve by updates of the reward while training (`train`, of the sampled answers), of the test's
sums (`sampled`: mean chance of the right answer at temperature 1; `greedy`: share right), and of KL from the start in
nats an answer. What is cut short by --seconds goes on with the same command.
"""

import time

from lab.experiments.common import Checkpoint, Clock, Results, arguments, settings, wanted
from lab.experiments.reinforcement.learner import Learner

SAVING = 30  # seconds


def main() -> None:
    args = arguments(__doc__ or "", "reinforcement")
    own, results, clock = settings(args.config, args.miniature), Results(args.out), Clock(args.seconds)
    for case, kind, seed in ((f"{kind}-{seed}", kind, seed) for seed in own["seeds"] for kind in own["models"]):
        if wanted(case, args.only) and not results.done(case, own) and not clock.over():
            learner = Learner(kind, seed, own, args.device)
            checkpoint = Checkpoint(args.checkpoints / f"{case}.pt")
            if run(case, learner, checkpoint, clock):
                size = sum(p.numel() for p in learner.net.parameters())
                results.put(case, own, parameters=size, taught=learner.taught, curve=learner.curve)
                checkpoint.drop()


def run(case: str, learner: Learner, checkpoint: Checkpoint, clock: Clock) -> bool:
    """Goes on from the checkpoint until all updates are made, or the time is up: whether they are."""
    updates, saved = learner.rewarding["updates"], time.monotonic()
    state = checkpoint.load(learner.pick.device)
    if state:
        learner.load(state)
    began, first = time.monotonic(), learner.updates
    while learner.updates < updates and not clock.over():
        if not advance(case, learner):
            began = time.monotonic()
        else:
            rate = (learner.updates - max(first, 0)) / (time.monotonic() - began)
            clock.say(case, learner.updates, updates, rate, **learner.curve[-1])
        if time.monotonic() - saved > SAVING:
            checkpoint.save(**learner.state())
            saved = time.monotonic()
    checkpoint.save(**learner.state())
    return learner.updates >= updates


def advance(case: str, learner: Learner) -> bool:
    """A step of teaching or, when the model is good enough, an update: whether it was one."""
    if learner.teach():
        return False
    if learner.updates < 0:
        learner.begin()
        print(f"{case}: taught in {learner.taught} steps, {learner.curve[-1]}", flush=True)
    learner.update()
    return True


if __name__ == "__main__":
    main()
