"""Training and test curves and the distance from the start: `python -m lab.experiments.reinforcement.plots`."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from lab.experiments.common import RESULTS, Results

PANELS = {
    "train": "sampled answers right, training",
    "sampled": "chance of the right answer, test",
    "greedy": "greedy answers right, test",
    "kl": "KL from the start, nats an answer",
}


def draw(results: list[dict[str, Any]], out: Path) -> None:
    kinds = list(dict.fromkeys(one["case"].rsplit("-", 1)[0] for one in results))
    figure, axes = plt.subplots(1, 4, figsize=(16, 4.5))
    for axis, (name, title) in zip(axes, PANELS.items(), strict=True):
        for one in results:
            kind, seed = one["case"].rsplit("-", 1)
            points = [(point["updates"], point[name]) for point in one["curve"] if name in point]
            label = kind if seed == str(one["settings"]["seeds"][0]) else None
            axis.plot(*zip(*points, strict=True), color=f"C{kinds.index(kind)}", alpha=0.8, label=label)
        axis.set(title=title, xlabel="updates")
        axis.legend()
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    draw(Results(RESULTS / "reinforcement").all(), RESULTS / "reinforcement" / "curves.png")
