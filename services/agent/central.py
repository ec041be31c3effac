"""Central sentences: LexRank. A sentence matters when it resembles many others that matter.

TF-IDF rows, cosine similarities, and the stationary distribution of a walk over them (the PageRank of the graph).
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from services.agent.retrieve import analyser

DAMPING = 0.85
STEPS = 30
MOST = 1_500  # sentences compared with each other; of more, evenly many are taken
LEANS = re.compile(
    r"(?:He|She|It|They|We|You|I|His|Her|Its|Their|This|That|These|Those|But|And|Or|So|Then|There|Yes|No|Not)\b"
    r"|.*[\"“”?]",
    re.DOTALL,
)
LEANING = 0.5  # a sentence that leans on the one before it, asks, or is spoken, says less when it stands alone
ALIKE = 0.6  # cosine above which two sentences say the same


def similarities(texts: Sequence[str]) -> np.ndarray:
    """[N, N] cosines of the texts' TF-IDF rows."""
    bags = [Counter(analyser().analyze(text)) for text in texts]
    seen = Counter(word for bag in bags for word in bag)
    column = {word: n for n, word in enumerate(w for w, count in seen.items() if count > 1)}
    rows = np.zeros((len(texts), max(1, len(column))), dtype=np.float32)
    for n, bag in enumerate(bags):
        weights = {w: (1 + math.log(count)) * math.log(len(texts) / seen[w] + 1) for w, count in bag.items()}
        norm = math.sqrt(sum(weight**2 for weight in weights.values()))  # words of one text only count here
        for word in weights.keys() & column.keys():
            rows[n, column[word]] = weights[word] / norm
    return rows @ rows.T


def centrality(alike: np.ndarray) -> np.ndarray:
    """[N] scores that sum to one."""
    n = len(alike)
    links = alike - np.diag(np.diag(alike))
    weight = links.sum(axis=1, keepdims=True)
    walk = np.where(weight > 0, links / np.where(weight == 0, 1, weight), 1 / n)
    rank = np.full(n, 1 / n)
    for _ in range(STEPS):
        rank = (1 - DAMPING) / n + DAMPING * walk.T @ rank
    return rank


def central(texts: Sequence[str], most: int, taken: Sequence[int] = ()) -> list[int]:
    """At most `most` texts in order of rank, none like another one or like those taken already."""
    if not texts:
        return []
    step = -(-len(texts) // MOST)
    rows = sorted({*range(0, len(texts), step), *taken})
    alike = similarities([texts[n] for n in rows])
    rank = centrality(alike) * [LEANING if LEANS.match(texts[n]) else 1.0 for n in rows]
    chosen = [rows.index(n) for n in taken]
    picked: list[int] = []
    for n in np.argsort(-rank, kind="stable"):
        if len(picked) < most and all(alike[n, other] < ALIKE for other in chosen):
            chosen.append(int(n))
            picked.append(rows[int(n)])
    return picked
