"""Exact match and F1 as SQuAD counts them; means with their 95 % intervals."""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

Z = 1.959964
RESAMPLES = 2_000


def plain(text: str) -> list[str]:
    """SQuAD's normalisation: lower case, no punctuation, no articles, split at white space."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def f1(said: str, answer: str) -> float:
    a, b = plain(said), plain(answer)
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b)) if common else float(a == b)


def best(score: Callable[[str, str], float], said: str, answers: Sequence[str]) -> float:
    return max(score(said, a) for a in answers)


def exact(said: str, answer: str) -> float:
    return float(plain(said) == plain(answer))


def holds(said: str, wanted: str) -> float:
    """1 when the wanted words stand in what was said, in a row and as whole words."""
    return float(f" {' '.join(plain(wanted))} " in f" {' '.join(plain(said))} ")


def wilson(hits: float, n: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927); not empty at 0 and at 1."""
    share, spread = hits / n, Z * Z / n
    middle = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """95 % percentile interval of the mean, values drawn with replacement; the same for the same values."""
    sample = np.asarray(values, float)
    drawn = np.random.default_rng(0).integers(len(sample), size=(RESAMPLES, len(sample)))
    low, high = np.percentile(sample[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def mean(values: Sequence[float], scale: float = 100) -> dict:
    """Value, n and the 95 % interval: Wilson's for hits and misses, the bootstrap's for everything else.

    Items are taken as independent: questions that share a text make the true interval somewhat wider.
    """
    share = len(values) > 0 and set(values) <= {0.0, 1.0}
    return figure(values, wilson(sum(values), len(values)), scale) if share else gain(values, scale)


def gain(values: Sequence[float], scale: float = 100) -> dict:
    """The mean of paired differences; the interval is always the bootstrap's."""
    if not len(values):
        raise ValueError("a mean of no values: the measure found nothing to count")
    return figure(values, bootstrap(values), scale)


def figure(values: Sequence[float], ci95: tuple[float, float], scale: float) -> dict:
    middle = scale * sum(values) / len(values)
    return {"value": round(middle, 2), "n": len(values), "ci95": [round(scale * edge, 2) for edge in ci95]}
