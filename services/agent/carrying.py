"""Which sentences carry a chapter: a weighted sum of what can be seen of each, no two alike.

The weights are learned (`python -m lab.learn summaries`, which says how) and lie in summary.json with where they come
from. Nothing else is learned: a sentence is chosen because it is central, of a good length, near the beginning, of the
chapter's own title and headings, and because the model chose it too.
"""

import json
import math
from collections import Counter
from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from services.agent.central import ALIKE, LEANS, MOST, centrality, similarities
from services.agent.retrieve import analyser

WEIGHTS = Path(__file__).with_name("summary.json")
SEEN = ("central", "length", "length squared", "place", "place squared", "repeated words", "title", "headings")
MODEL = "model"  # the one weight beside them: that the model chose the sentence
LEANING = 0.3  # taken off a sentence that leans on the one before it, asks, or is spoken: for the reader, not for ROUGE
REDUNDANCY = 0.7  # times the cosine to the nearest sentence chosen before (maximal marginal relevance)


@lru_cache(maxsize=1)
def weights() -> dict[str, float]:
    return json.loads(WEIGHTS.read_text())["weights"]


def carrying(texts: Sequence[str], title: str, headings: str, most: int, voted: Collection[int] = ()) -> list[int]:
    """At most `most` of a chapter's sentences, in its order; `voted`: those that the model chose."""
    if not texts:
        return []
    kept = sorted({*range(0, len(texts), -(-len(texts) // MOST)), *voted})
    some, alike = [texts[n] for n in kept], similarities([texts[n] for n in kept])
    known = weights()
    score = seen(some, title, headings, alike) @ [known[name] for name in SEEN]
    score += [known[MODEL] * (n in voted) for n in kept]
    score -= [LEANING * bool(LEANS.match(text)) for text in some]
    return sorted(kept[n] for n in varied(score, alike, most))


def seen(texts: Sequence[str], title: str, headings: str, alike: np.ndarray) -> np.ndarray:
    """[N, len(SEEN)] in standard deviations from the chapter's mean. `alike`: [N, N] cosines of the sentences."""
    stems = [analyser().analyze(text) for text in texts]
    often = Counter(stem for row in stems for stem in row)
    words = np.array([len(text.split()) for text in texts]) / 30
    place = np.arange(len(texts)) / len(texts)
    columns = [
        centrality(alike) * len(texts),
        words,
        words**2,
        place,
        place**2,
        [sum(math.log(1 + often[stem]) for stem in set(row)) for row in stems],
        shares(stems, title),
        shares(stems, headings),
    ]
    rows = np.stack([np.asarray(column, float) for column in columns], 1)
    spread = rows.std(axis=0)
    return (rows - rows.mean(axis=0)) / np.where(spread > 1e-9, spread, 1)


def shares(stems: Sequence[Sequence[str]], words: str) -> list[float]:
    """Which share of the words each sentence has."""
    wanted = set(analyser().analyze(words))
    return [len(wanted & set(row)) / max(1, len(wanted)) for row in stems]


def varied(score: np.ndarray, alike: np.ndarray, most: int) -> list[int]:
    """The best one by one, less what they repeat of those chosen before; none that says the same."""
    chosen: list[int] = []
    left = set(range(len(score)))
    while left and len(chosen) < most:
        near = {n: max((float(alike[n, other]) for other in chosen), default=0.0) for n in left}
        best = max(sorted(left), key=lambda n: score[n] - REDUNDANCY * near[n])
        chosen.append(best)
        left = {n for n in left - {best} if alike[n, best] < ALIKE}
    return chosen
