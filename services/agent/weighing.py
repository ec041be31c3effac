"""Which proposal is the answer, and is there one? Two weighted sums of what can be seen of a proposal.

The weights are learned (`python -m lab.learn answers`, which says how) and lie in answering.json with where they come
from: `right` for the best of several proposals, `there` for whether the text answers the question at all, given the
best. Both are log odds.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from services.agent.looks import Proposal, named
from services.agent.quotes import sentence_around
from services.agent.retrieve import terms
from services.agent.support import support
from services.agent.types import Hit, Origin, Quote, SourceView
from services.ingest.types import Span

WEIGHTS = Path(__file__).with_name("answering.json")
BESIDE = 1.0  # log odds by which a further quote of the same look may be less likely
SEEN = (
    *("one", "read", "together", "second"),  # where it was proposed; `one` for all
    *("odds", "mean", "sum"),  # how sure the model was: that there is an answer, of a token, of all tokens
    *("support", "rank", "agreement", "echo", "words"),
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
    sure: bool = False  # another look would hardly find a better one
    there: bool = False  # the text answers the question


def choose(question: str, views: Sequence[SourceView], hits: Sequence[Hit], found: Sequence[Proposal]) -> Choice:
    if not found:
        return Choice()
    rows = seen(question, views, hits, found)
    right = rows @ weights("right")
    best = int(np.argmax(right))
    there = bool(rows[best] @ weights("there") >= learned()["least"])
    sure = bool(right[best] >= learned()["sure"])
    return Choice(together(found, right, best), found[best].origin, sure, there)


def together(found: Sequence[Proposal], right: np.ndarray, best: int) -> list[Quote]:
    """What the same look proposed besides and is nearly as likely: some questions have several answers."""
    beside = [n for n, one in enumerate(found) if one.kind == found[best].kind and n != best]
    return [found[n].quote for n in (best, *(n for n in beside if right[n] >= right[best] - BESIDE))]


def seen(question: str, views: Sequence[SourceView], hits: Sequence[Hit], found: Sequence[Proposal]) -> np.ndarray:
    """[N, len(SEEN)]"""
    return np.array([row(question, views, hits, found, one) for one in found]).reshape(len(found), len(SEEN))


def row(
    question: str, views: Sequence[SourceView], hits: Sequence[Hit], found: Sequence[Proposal], one: Proposal
) -> list[float]:
    asked, said = set(terms(question)), terms(one.quote.text)
    return [
        1.0,
        *(float(one.kind == kind) for kind in ("read", "together", "second")),
        one.odds,
        sum(one.logprobs) / max(1, len(one.logprobs)),
        sum(one.logprobs),
        supported(question, views, one),
        rank(hits, one),
        agreement(one, found),
        sum(word in asked for word in said) / max(1, len(said)),
        math.log(1 + len(one.quote.text.split())),
    ]


def supported(question: str, views: Sequence[SourceView], one: Proposal) -> float:
    view = named(views, one.quote.source_id)
    a, b = sentence_around(view, one.quote.char or (0, 0))
    return support(question, view.text[a:b], views)


def rank(hits: Sequence[Hit], one: Proposal) -> float:
    """BM25 of its passage as a share of the best one's; 0 outside of the passages."""
    a, b = one.quote.char or (0, 0)
    inside = [h for h in hits if h.source_id == one.quote.source_id and h.block.char[0] <= a and b <= h.block.char[1]]
    return max((hit.score / hits[0].score if hits[0].score else 1.0 for hit in inside), default=0.0)


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
