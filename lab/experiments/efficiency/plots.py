"""Time and memory by length, and where they cross: `python -m lab.experiments.efficiency.plots`."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from lab.experiments.common import RESULTS, Results
from lab.experiments.efficiency.claims import curves
from lab.experiments.efficiency.crossing import crossing

PANELS = {"seconds": "reading, s", "decode_ms": "a decoded token, ms", "cache_bytes": "latents and state, bytes"}


def draw(results: list[dict[str, Any]], out: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.5))
    for axis, (name, title) in zip(axes, PANELS.items(), strict=True):
        found = curves(results, name)
        for kind, curve in found.items():
            lengths = sorted(curve)
            axis.plot(lengths, [curve[n] for n in lengths], marker=".", label=kind)
        at = crossing(found["hybrid"], found["mla"])
        if at:
            axis.axvline(at, color="grey", linestyle=":", label=f"from {at:.0f} tokens on")
        axis.set(title=title, xscale="log", yscale="log", xlabel="tokens")
        axis.legend()
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    draw(Results(RESULTS / "efficiency").all(), RESULTS / "efficiency" / "lengths.png")
