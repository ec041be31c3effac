"""Peaks by length and the curves of the best rate, the paper's dashed: `python -m lab.experiments.synthetic.plots`."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from lab.experiments.common import RESULTS, Results
from lab.experiments.synthetic.paper import CURVES, EVERY, LENGTHS, PEAKS

COLOURS = {"kda": "C0", "gdn": "C1", "mamba2": "C2"}


def draw(results: list[dict[str, Any]], out: Path) -> None:
    if results:
        peaks(results, out / "peaks.png")
        for length in sorted({one["settings"]["length"] for one in results}):
            curves(
                [one for one in results if one["settings"]["length"] == length], length, out / f"curves-{length}.png"
            )


def panels(title: str):
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.2), sharey=True)
    axes[0].set(ylabel=title, ylim=(-3, 103))
    return figure, dict(zip(PEAKS, axes, strict=True))


def peaks(results: list[dict[str, Any]], out: Path) -> None:
    figure, axes = panels("peak accuracy, %")
    for task, axis in axes.items():
        axis.set(title=task, xlabel="tokens", xscale="log")
        for kind, colour in COLOURS.items():
            ours = sorted((s["length"], 100 * one["peak"]) for one, s in of(results, task, kind))
            axis.plot(*zip(*ours, strict=True) if ours else ([], []), "o-", color=colour, label=kind)
            axis.plot(LENGTHS, PEAKS[task][kind], "x--", color=colour, alpha=0.5, label=f"{kind}, paper")
        axis.set_xticks(LENGTHS, [str(length) for length in LENGTHS])
        axis.minorticks_off()
    finish(figure, axes, out)


def curves(results: list[dict[str, Any]], length: int, out: Path) -> None:
    figure, axes = panels(f"accuracy, %, {length} tokens")
    for task, axis in axes.items():
        axis.set(title=task, xlabel="steps")
        for kind, colour in COLOURS.items():
            for one, _ in of(results, task, kind):
                best = [(step, 100 * right) for step, right, _ in one["curves"][str(one["rate"])]]
                axis.plot(*zip(*best, strict=True), color=colour, label=f"{kind}, rate {one['rate']:g}")
            theirs = CURVES[task].get(kind, ()) if length == 1024 else ()
            steps = [EVERY * (n + 1) for n in range(len(theirs))]
            axis.plot(steps, theirs, "--", color=colour, alpha=0.5, label=f"{kind}, paper" if theirs else None)
    finish(figure, axes, out)


def of(results: list[dict[str, Any]], task: str, kind: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    pairs = [(one, one["settings"]) for one in results]
    return [(one, s) for one, s in pairs if s["of"] == task and s["kind"] == kind]


def finish(figure, axes: dict, out: Path) -> None:
    for axis in axes.values():
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    draw(Results(RESULTS / "synthetic").all(), RESULTS / "synthetic")
