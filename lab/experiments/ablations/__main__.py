"""The paper's ablations at equal FLOPs: ratio, output gate, short convolution, positions in MLA.

    python -m lab.experiments.ablations [--only 3-1 0-1] [--seconds 1500] [--miniature]

A case is a variant and a seed. Figures: bits a byte and nats a token on held-out text, the training loss by step.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.experiments import small
from lab.experiments.ablations.claims import PAPER, grouped, over
from lab.experiments.common import arguments, settings


def main() -> None:
    args = arguments(__doc__, "ablations")
    config = settings(args.config, args.miniature)
    results = small.run(args, cases(config), config["parcels"]).all()
    if results:
        plot(results, args.out / "ablations.png")


def cases(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """One seed of every variant, then the next seed; each with the FLOPs of the first variant."""
    first = next(iter(config["variants"].values()))
    flops = small.budget(config["model"] | first, config["train"]["length"], config["tokens"])
    shared = {name: config[name] for name in ("train", "held", "parcels")} | {"flops": flops}
    for seed in config["seeds"]:
        for name, change in config["variants"].items():
            yield f"{name}.{seed}", shared | {"seed": seed, "model": config["model"] | change}


def plot(results: list[dict[str, Any]], file: Path) -> None:
    """Training loss by step, and held-out perplexity against the first variant beside the paper's."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5), layout="constrained")
    for name, runs in grouped(results).items():
        one = runs[min(runs)]
        left.plot(*zip(*one["curve"], strict=True), lw=1, label=name)
    left.set(xlabel="step", ylabel="training loss, nats a token", yscale="log", title="first seed")
    left.legend(fontsize=8)
    bars(right, results)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def bars(axes: Any, results: list[dict[str, Any]]) -> None:
    found = over(results)
    for at, (name, (mean, half, _)) in enumerate(found.items()):
        axes.errorbar(mean, at, xerr=half, fmt="o", color="C0", capsize=3)
        if name in PAPER:
            axes.plot(PAPER[name], at, "x", color="C3")
    axes.set_yticks(range(len(found)), list(found))
    axes.axvline(0, color="grey", lw=0.5)
    axes.set(xlabel="held-out perplexity over 3-1, % (bar: 95 % over seeds; cross: the paper)")


if __name__ == "__main__":
    main()
