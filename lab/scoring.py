"""Exact match and F1 as SQuAD counts them, and a mean with its 95 % interval."""

import math
import re
import string
from collections import Counter


def plain(text: str) -> list[str]:
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def f1(said: str, answer: str) -> float:
    a, b = plain(said), plain(answer)
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b)) if common else float(a == b)


def best(score, said: str, answers: list[str]) -> float:
    return max(score(said, a) for a in answers)


def exact(said: str, answer: str) -> float:
    return float(plain(said) == plain(answer))


def mean(values: list[float], scale: float = 100) -> dict:
    """Value, n and the 95 % interval of a mean (normal)."""
    n = len(values)
    middle = sum(values) / n
    spread = math.sqrt(sum((v - middle) ** 2 for v in values) / max(1, n - 1) / n) * 1.96
    return {
        "value": round(scale * middle, 2),
        "n": n,
        "ci95": [round(scale * (middle - spread), 2), round(scale * (middle + spread), 2)],
    }
