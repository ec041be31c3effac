"""Power laws loss = a·C^-b of kinds of model, and how much less compute one needs for the other's loss."""

from dataclasses import dataclass
from typing import Any

import numpy as np

DAY = 1e15 * 86400  # FLOPs of a PFLOP/s-day
Law = tuple[float, float]
Summary = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """A run: ``compute`` in PFLOP/s-days, ``nats`` [windows] of the held-out text, ``tokens`` of a window."""

    case: str
    kind: str
    size: str
    compute: float
    nats: np.ndarray
    tokens: int

    @property
    def loss(self) -> float:
        return float(self.nats.mean()) / self.tokens


def points(results: list[dict[str, Any]]) -> list[Point]:
    """The runs among the results, which hold the last fit too."""
    return [point(one) for one in results if "windows" in one]


def point(one: dict[str, Any]) -> Point:
    kind, size, _ = one["case"].split(".")
    nats, length = np.array(one["windows"]["nats"]), one["settings"]["train"]["length"]
    return Point(one["case"], kind, size, one["spent_flops"] / DAY, nats, length)


def fit(compute: np.ndarray, loss: np.ndarray) -> Law:
    """(a, b) by least squares of the logarithms."""
    slope, level = np.polyfit(np.log(compute), np.log(loss), 1)
    return float(np.exp(level)), float(-slope)


def efficiency(better: Law, other: Law, compute: float) -> float:
    """Compute that ``other`` needs for the loss that ``better`` has at ``compute``, over ``compute``."""
    loss = better[0] * compute ** -better[1]
    return float((other[0] / loss) ** (1 / other[1]) / compute)


def kinds_of(found: list[Point]) -> list[str]:
    """Those that were run at two sizes or more."""
    sizes = {p.kind: {other.size for other in found if other.kind == p.kind} for p in found}
    return sorted(kind for kind, own in sizes.items() if len(own) > 1)


def laws(found: list[Point], losses: np.ndarray) -> dict[str, Law]:
    """Of each kind, with these losses in place of the points' own."""
    kinds, compute = np.array([p.kind for p in found]), np.array([p.compute for p in found])
    return {kind: fit(compute[kinds == kind], losses[kinds == kind]) for kind in kinds_of(found)}


def middle(found: list[Point]) -> float:
    """The compute at which the ratio is told: the geometric mean over the sizes."""
    each = {p.size: p.compute for p in found}
    return float(np.exp(np.mean(np.log(list(each.values())))))


def noise(found: list[Point]) -> float | None:
    """Standard deviation of a loss over seeds, pooled over kinds and sizes; None: nothing was run twice."""
    groups: dict[tuple[str, str], list[float]] = {}
    for p in found:
        groups.setdefault((p.kind, p.size), []).append(p.loss)
    squares = sum(float(np.var(x)) * len(x) for x in groups.values())
    free = sum(len(x) - 1 for x in groups.values())
    return (squares / free) ** 0.5 if free else None


def draws(found: list[Point], count: int, sigma: float, seed: int = 1) -> np.ndarray:
    """Losses [count, points] of other seeds on other held-out text: windows drawn anew, the same for all runs."""
    pick, per_token = np.random.default_rng(seed), np.stack([p.nats / p.tokens for p in found])
    windows = pick.integers(per_token.shape[1], size=(count, per_token.shape[1]))
    means = np.stack([per_token[:, some].mean(1) for some in windows])
    return means + sigma * pick.standard_normal(means.shape)


def summary(found: list[Point], count: int) -> Summary | None:
    """The laws, MLA's compute over the hybrid's in the middle, its 95 % interval; None: fewer than two sizes of these.

    The interval is over held-out windows and seeds (normal, the pooled deviation; ``seed_sd`` None: windows alone).
    """
    if not {"hybrid", "mla"} <= set(kinds_of(found)):
        return None
    at, sigma = middle(found), noise(found)
    own = laws(found, np.array([p.loss for p in found]))
    drawn = [laws(found, losses) for losses in draws(found, count, sigma or 0.0)]
    ratios = [efficiency(one["hybrid"], one["mla"], at) for one in drawn]
    low, high = np.quantile(ratios, [0.025, 0.975])
    ratio = efficiency(own["hybrid"], own["mla"], at)
    return {"laws": own, "at": at, "ratio": ratio, "ratio_95": [float(low), float(high)], "seed_sd": sigma}
