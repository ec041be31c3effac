"""Held-out perplexity of every variant over the hybrid's, seed by seed, beside the paper's."""

import math
import statistics
from collections import defaultdict
from typing import Any

from lab.experiments.common import Claim

BASE = "3-1"
VALIDATION = {  # the paper's perplexities. Which positions its pure MLA has is not known here: set beside both
    "3-1": 5.65,
    "0-1": 5.77,
    "0-1-rope": 5.77,
    "1-1": 5.66,
    "7-1": 5.70,
    "15-1": 5.82,
    "no-gate": 5.67,
    "swish-gate": 5.81,
    "no-conv": 5.70,
}
PAPER = {name: 100 * (value / VALIDATION[BASE] - 1) for name, value in VALIDATION.items() if name != BASE}
TEXT = {
    "0-1": "MLA in every layer (no positions)",
    "0-1-rope": "MLA in every layer, with RoPE",
    "1-1": "one KDA layer to one MLA",
    "7-1": "seven KDA layers to one MLA",
    "15-1": "fifteen KDA layers to one MLA",
    "no-gate": "no output gate",
    "swish-gate": "swish as output gate",
    "no-conv": "no short convolution",
    "rope": "RoPE in the hybrid's MLA",
}
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # Student's, from one degree of freedom on
COMMAND = "python -m lab.experiments.ablations"
Run = dict[str, Any]


def grouped(results: list[Run]) -> dict[str, dict[int, Run]]:
    """Runs by variant and seed."""
    found: dict[str, dict[int, Run]] = defaultdict(dict)
    for one in results:
        found[one["case"].rpartition(".")[0]][one["settings"]["seed"]] = one
    return dict(found)


def over(results: list[Run]) -> dict[str, tuple[float, float, int]]:
    """Variant -> (mean % of perplexity over the base, half of its 95 % interval over seeds, seeds)."""
    runs = grouped(results)
    base = runs.pop(BASE, {})
    found = {name: [ahead(base[seed], one) for seed, one in own.items() if seed in base] for name, own in runs.items()}
    return {name: spread(values) for name, values in found.items() if values}


def ahead(base: Run, one: Run) -> float:
    """By how many % the perplexity of a token is above the base's."""
    return 100 * math.expm1(one["loss"] - base["loss"])


def spread(values: list[float]) -> tuple[float, float, int]:
    """(mean, half of the 95 % interval by Student's t, how many: at most ten). Of one value it is infinite."""
    count = len(values)
    if count == 1:
        return values[0], math.inf, 1
    half = T95[count - 2] * statistics.stdev(values) / math.sqrt(count)
    return statistics.mean(values), half, count


def claims(results: list[Run]) -> list[Claim]:
    found = over(results)
    return [row(name, found.get(name)) for name in TEXT]


def row(name: str, found: tuple[float, float, int] | None) -> Claim:
    paper = f"{PAPER[name]:+.1f} %" if name in PAPER else "–"
    claim = f"{TEXT[name]}: held-out perplexity over 3:1"
    if not found:
        return Claim(claim, paper, "not run", None, f"{COMMAND} --only {BASE} {name}")
    mean, half, count = found
    ours = f"{mean:+.1f} ± {half:.1f} % ({count} seeds)" if count > 1 else f"{mean:+.1f} % (one seed)"
    return Claim(claim, paper, ours, agrees(PAPER.get(name), mean, half), f"{COMMAND} --only {BASE} {name}")


def agrees(paper: float | None, mean: float, half: float) -> bool | None:
    """Whether the whole interval lies on the paper's side of zero; None: it holds zero, or the paper says nothing."""
    if paper is None or abs(mean) <= half:
        return None
    return (mean > 0) == (paper > 0)
