"""Right answers by length, a panel for each task: `python -m lab.experiments.longcontext.plots`."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from lab.experiments.common import RESULTS, Results
from lab.experiments.longcontext.tasks import ASKED


def draw(results: list[dict[str, Any]], out: Path) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(12, 7), sharex=True, sharey=True)
    for axis, task in zip(axes.flat, ASKED, strict=True):
        for one in results:
            cells = {int(cell.rsplit("-", 1)[1]): s for cell, s in one["scores"].items() if cell.startswith(f"{task}-")}
            lengths = sorted(cells)
            axis.plot(lengths, [cells[n]["value"] for n in lengths], marker=".", label=one["case"])
            low, high = zip(*(cells[n]["ci95"] for n in lengths), strict=True)
            axis.fill_between(lengths, low, high, alpha=0.12)
        axis.axvline(results[0]["settings"]["training"]["lengths"][1], color="grey", linestyle=":")
        axis.set(title=task, xscale="log", ylim=(-3, 103))
    figure.supxlabel("tokens (dotted: the longest trained on)")
    figure.supylabel("answers right, %, with 95 % intervals")
    axes.flat[0].legend()
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    draw(Results(RESULTS / "longcontext").all(), RESULTS / "longcontext" / "scores.png")
