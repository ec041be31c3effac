"""Which proposal is the answer, and is there one? Two weighted sums of what can be seen of a proposal.

The weights are learned (`python -m lab.learn answers`, which says how) and lie in answering.json with where they come
from: `right` for the best of several proposals, `there` for whether the text answers the question at all, given the
best. Both are log odds: there is an answer where that is more likely than not.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from services.agent.looks import Proposal, named
from services.agent.quotes import block_at, sentence_around
from services.agent.retrieve import terms
from services.agent.support import support
from services.agent.types import Hit, Origin, Quote, SourceView
from services.ingest.types import Span

WEIGHTS = Path(__file__).with_name("answering.json")
BESIDE = 1.0  # log odds by which a further quote of the same look may be less likely
SEEN = (
    *("one", "read"),  # always 1; 1 for what the reading proposed
    *("odds", "nearest", "certainty"),  # that this look has an answer, that the nearest passage has; of a token
    *("support", "passage", "echo"),  # the question's words in the sentence, in the passage; how far it only says these
    *("rank", "agreement"),  # the passage's, by BM25; how far the other looks propose the same
)


@lru_cache(maxsize=1)
def learned() -> dict[str, Any]:
    return json.loads(WEIGHTS.read_text())


def weights(name: str) -> np.ndarray:
    """[len(SEEN)]"""
    return np.array([learned()["weights"][name][column] for column in SEEN])


@dataclass(frozen=True)
class Choice:
    """The best so far."""

    quotes: Sequence[Quote] = ()  # of one look, the best first
    origin: Origin = "retrieved"
    sure: bool = False  # there, and another look would hardly find a better one
    there: bool = False  # the text answers the question


def choose(question: str, views: Sequence[SourceView], hits: Sequence[Hit], found: Sequence[Proposal]) -> Choice:
    if not found:
        return Choice()
    rows = seen(question, views, hits, found)
    right = rows @ weights("right")
    best = int(np.argmax(right))
    there = bool(rows[best] @ weights("there") >= 0)
    sure = there and bool(right[best] >= learned()["sure"])
    return Choice(together(found, right, best), found[best].origin, sure, there)


def together(found: Sequence[Proposal], right: np.ndarray, best: int) -> list[Quote]:
    """What the same look proposed besides and is nearly as likely: some questions have several answers."""
    beside = [n for n, one in enumerate(found) if one.kind == found[best].kind and n != best]
    return [found[n].quote for n in (best, *(n for n in beside if right[n] >= right[best] - BESIDE))]


def seen(question: str, views: Sequence[SourceView], hits: Sequence[Hit], found: Sequence[Proposal]) -> np.ndarray:
    """[N, len(SEEN)]"""
    nearest = next((one.odds for one in found if one.kind == "first"), None)
    rows = [
        [
            *(1.0, float(one.kind == "read")),
            *(one.odds, one.odds if nearest is None else nearest, mean(one.logprobs)),
            *in_text(question, views, hits, one),
            agreement(one, found),
        ]
        for one in found
    ]
    return np.array(rows).reshape(len(found), len(SEEN))


def in_text(
    question: str, views: Sequence[SourceView], hits: Sequence[Hit], one: Proposal
) -> tuple[float, float, float, float]:
    """`support`, `passage`, `echo`, `rank`: what the text and the question say of a proposal."""
    view, char = named(views, one.quote.source_id), one.quote.char or (0, 0)
    around = view.text[slice(*sentence_around(view, char))]
    held = [h for h in hits if h.source_id == view.id and h.block.char[0] <= char[0] and char[1] <= h.block.char[1]]
    passage = held[0].block if held else view.blocks[block_at(view, char[0])]
    asked, best = set(terms(question)), max((hit.score for hit in hits), default=0.0)
    echo = mean([float(word in asked) for word in terms(one.quote.text)])
    rank = (held[0].score / best if best else 1.0) if held else 0.0
    return support(question, around, views), support(question, passage.text, views), echo, rank


def mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def agreement(one: Proposal, found: Sequence[Proposal]) -> float:
    """How much of it the other looks propose too, on average over these, as their first quote."""
    firsts = {other.kind: other for other in reversed(found) if other.kind != one.kind}
    return sum(shared(one, other) for other in firsts.values()) / max(1, len(firsts))


def shared(one: Proposal, other: Proposal) -> float:
    """Characters of both as a share of the shorter one's."""
    if one.quote.source_id != other.quote.source_id:
        return 0.0
    a, b = one.quote.char or (0, 0), other.quote.char or (0, 0)
    return max(0, min(a[1], b[1]) - max(a[0], b[0])) / max(1, min(size(a), size(b)))


def size(span: Span) -> int:
    return span[1] - span[0]
