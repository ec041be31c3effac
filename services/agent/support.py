"""How much of a question stands in a sentence: the text's own vote on what the model says."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from services.agent.retrieve import terms
from services.agent.types import SourceView


@lru_cache(maxsize=8)
def rows_of(views: tuple[SourceView, ...]) -> tuple[str, ...]:
    return tuple(block.text for view in views for block in view.blocks if block.text.strip())


@lru_cache(maxsize=8)
def frequencies(rows: tuple[str, ...]) -> Counter[str]:
    """In how many rows each stem occurs."""
    found: Counter[str] = Counter()
    for row in rows:
        found.update(set(terms(row)))
    return found


def support(question: str, sentence: str, views: Sequence[SourceView]) -> float:
    """Share, 0 to 1, of the question's words that the sentence has, rare words weighing more (inverse frequency)."""
    rows = rows_of(tuple(views))
    known = frequencies(rows)
    weight = {word: math.log(1 + len(rows) / (0.5 + known[word])) for word in set(terms(question))}
    total = sum(weight.values())
    return sum(weight[word] for word in weight.keys() & set(terms(sentence))) / total if total else 0.0
