"""Loss by compute, MLA in every layer (RoPE) against the hybrid: the same FLOPs at every size, a power law each.

    python -m lab.experiments.scaling [--only a b] [--seconds 1500] [--miniature]

A case is a kind, a size and a seed. Figures: as the ablations'; `law.json`: both laws loss = a·C^-b (C in PFLOP/s-days,
loss in nats a token held out) and by how many times less compute the hybrid reaches the same loss, with 95 % intervals.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.experiments import small
from lab.experiments.common import Results, arguments, settings
from lab.experiments.scaling.law import Point, Summary, points, summary


def main() -> None:
    args = arguments(__doc__, "scaling")
    config = settings(args.config, args.miniature)
    conclude(small.run(args, cases(config), config["parcels"]), config["draws"])


def conclude(results: Results, draws: int) -> None:
    """The laws of what is there so far: law.json and the plot."""
    found = points(results.all())
    told = summary(found, draws)
    if told:
        results.put("law", {"draws": draws, "cases": sorted(p.case for p in found)}, **told)
        plot(found, told, results.folder / "scaling.png")
        print(json.dumps(told), flush=True)


def cases(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The first seed of every size and kind, then the seconds."""
    for turn in range(max(len(size["seeds"]) for size in config["sizes"].values())):
        for name, size in config["sizes"].items():
            for kind, change in config["kinds"].items():
                if turn < len(size["seeds"]):
                    yield f"{kind}.{name}.{size['seeds'][turn]}", case(config, size, change, size["seeds"][turn])


def case(config: dict[str, Any], size: dict[str, Any], change: dict[str, Any], seed: int) -> dict[str, Any]:
    """A size's FLOPs are the hybrid's for the size's tokens."""
    model = config["model"] | {name: size[name] for name in ("layers", "hidden", "heads")}
    train = config["train"] | {name: size[name] for name in ("muon", "adam")}
    flops = small.budget(model, train["length"], size["tokens"])
    shared = {name: config[name] for name in ("held", "parcels")}
    return shared | {"model": model | change, "train": train, "flops": flops, "seed": seed}


def plot(found: list[Point], told: Summary, file: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import numpy as np
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5.5), layout="constrained")
    for kind, (a, b) in told["laws"].items():
        own = [p for p in found if p.kind == kind]
        (line,) = axes.plot([p.compute for p in own], [p.loss for p in own], "o", ms=4)
        ends = np.geomspace(min(p.compute for p in own), max(p.compute for p in own))
        axes.plot(ends, a * ends**-b, color=line.get_color(), label=f"{kind}: {a:.3f} · C^-{b:.4f}")
    low, high = told["ratio_95"]
    title = f"compute efficiency {told['ratio']:.2f} ({low:.2f} to {high:.2f}); the paper 1.16"
    axes.set(xscale="log", yscale="log", xlabel="PFLOP/s-days", ylabel="held-out loss, nats a token", title=title)
    axes.legend()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
