"""The paper's reinforcement learning (figures from its plots), against ours: paired by seed, Student's interval."""

import math
import statistics
from typing import Any

from lab.experiments.common import Claim

COMMAND = "python -m lab.experiments.reinforcement"
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}  # by n - 1
LAST = 3  # looks at the end, averaged
ROWS = {
    "train": ("accuracy while training", "52.5 to 59.0 % (from 21.5, 22.0)"),
    "sampled": ("accuracy on test problems", "MATH500: 84.6 to 86.4 % (from 72.6, 72.4)"),
}


def claims(results: list[dict[str, Any]]) -> list[Claim]:
    return [claim(results, figure, *row) for figure, row in ROWS.items()]


def claim(results: list[dict[str, Any]], figure: str, what: str, paper: str) -> Claim:
    text = f"reinforcement learning, {what} at the end: the hybrid's is higher than all MLA's"
    by_case = {one["case"]: one for one in results}
    seeds = [c.removeprefix("hybrid-") for c in by_case if c.startswith("hybrid-")]
    pairs = [[by_case[f"{kind}-{s}"] for kind in ("mla", "hybrid")] for s in seeds if f"mla-{s}" in by_case]
    if len(pairs) < 2:
        return Claim(text, paper, "not run", None, COMMAND)
    ends = [[end(one, figure) for one in pair] for pair in pairs]
    low, high = interval([hybrid - mla for mla, hybrid in ends])
    mla, hybrid = (statistics.mean(column) for column in zip(*ends, strict=True))
    starts = [
        100 * statistics.mean(one["curve"][0]["sampled"] for one in column) for column in zip(*pairs, strict=True)
    ]
    ours = f"{mla:.1f} to {hybrid:.1f} % (test, from {starts[0]:.1f}, {starts[1]:.1f}): {hybrid - mla:+.1f} "
    ours += f"[{low:+.1f}, {high:+.1f}] points, {len(pairs)} seeds"
    return Claim(text, paper, ours, True if low > 0 else False if high < 0 else None, COMMAND)


def end(result: dict[str, Any], figure: str) -> float:
    """Per cent, the mean of the last looks."""
    return 100 * statistics.mean(point[figure] for point in result["curve"][-LAST:])


def interval(values: list[float]) -> tuple[float, float]:
    """95 % of the mean of two to ten values."""
    half = T95[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values) - half, statistics.mean(values) + half
