"""Exact match and F1 as SQuAD counts them; means with their 95 % intervals."""

import math
import re
import string
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence

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


def wilson(hits: float, n: float) -> tuple[float, float]:
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


def design_effect(values: Sequence[float], texts: Sequence[Hashable]) -> float:
    """How many times wider the mean's variance is than were the values independent (Kish 1965); 1 at least.

    `texts` names the text of each value. The variance over texts is the ratio estimator's; of few texts it is rough.
    """
    found, sample = defaultdict(list), np.asarray(values, float)
    for text, value in zip(texts, sample - sample.mean(), strict=True):
        found[text].append(value)
    if len(found) < 2 or not sample.var():
        return 1.0
    over_texts = sum(sum(off) ** 2 for off in found.values()) * len(found) / (len(found) - 1)
    return max(1.0, float(over_texts / (sample.var() * len(sample))))


def mean(values: Sequence[float], scale: float = 100, texts: Sequence[Hashable] = ()) -> dict:
    """Value, n and the 95 % interval: Wilson's for hits and misses, the bootstrap's for everything else.

    `texts` names the text of each value, where several values share one: the interval is then as wide as the design
    effect says, and the figure tells how many texts there are.
    """
    if not (len(values) > 0 and set(values) <= {0.0, 1.0}):
        return gain(values, scale, texts)
    count = len(values) / (design_effect(values, texts) if texts else 1.0)
    return figure(values, wilson(sum(values) / len(values) * count, count), scale, texts)


def gain(values: Sequence[float], scale: float = 100, texts: Sequence[Hashable] = ()) -> dict:
    """The mean of paired differences; the interval is always the bootstrap's."""
    if not len(values):
        raise ValueError("a mean of no values: the measure found nothing to count")
    wider, middle = math.sqrt(design_effect(values, texts)) if texts else 1.0, sum(values) / len(values)
    edges = np.clip([middle + wider * (edge - middle) for edge in bootstrap(values)], min(values), max(values))
    return figure(values, (float(edges[0]), float(edges[1])), scale, texts)


def figure(values: Sequence[float], ci95: tuple[float, float], scale: float, texts: Sequence[Hashable]) -> dict:
    middle = scale * sum(values) / len(values)
    found = {"value": round(middle, 2), "n": len(values), "ci95": [round(scale * edge, 2) for edge in ci95]}
    return found | ({"texts": len(set(texts))} if texts else {})
