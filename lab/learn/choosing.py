"""Weights that choose among proposals and refuse: logistic regression on what was asked (answers.py).

`right`: of every proposal to a question that the text answers, how near it comes to the answer (F1, a share). `there`:
of the proposal chosen by these, whether the text answers the question. Learned on what is known after each look, with
the reading and without: the product may stop after any, and a source may be unread.

All that is printed is cross-validated: each paragraph's questions by the weights of the others, in FOLDS. `sure` is the
lowest odds of `right` from which to take no further look costs at most COST of F1, and of what is said to be missing.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from zlib import crc32

import numpy as np

from lab.scoring import best, exact, f1
from services.agent.looks import PASSAGE_BUDGET, Proposal
from services.agent.types import Hit, SourceView
from services.agent.weighing import seen

COST, RIDGE, FOLDS = 0.01, 1e-2, 5
ARTICLES = "squad-1.1-dev"
CURVE = (-1.0, -0.5, 0.0, 0.5, 1.0)
ORDER = ("read", "first", "together", "second")


@dataclass(frozen=True)
class State:
    """What is known after a look."""

    found: Sequence[Proposal]
    rows: np.ndarray  # [N, len(SEEN)]


@dataclass(frozen=True)
class Asked:
    """A question to a text, and what was proposed at every look."""

    paragraph: str  # that the question is on
    source: str
    question: str
    views: Sequence[SourceView]
    hits: Sequence[Hit]
    found: Sequence[Proposal]
    answers: Sequence[str]  # none: the text does not answer it

    @cached_property
    def states(self) -> list[State]:
        kinds = [kind for kind in ORDER if any(one.kind == kind for one in self.found)]
        return [self.state([one for one in self.found if one.kind in kinds[: n + 1]]) for n in range(len(kinds))]

    def state(self, found: Sequence[Proposal]) -> State:
        return State(found, seen(self.question, self.views, self.hits, found))

    @cached_property
    def unread(self) -> "Asked":
        return replace(self, found=[one for one in self.found if one.kind != "read"])

    @property
    def was_read(self) -> bool:
        return self.unread.found != self.found

    def score(self, one: Proposal, measure: Callable[[str, str], float] = f1) -> float:
        return best(measure, one.quote.text, self.answers) if self.answers else 0.0


@dataclass(frozen=True)
class Weights:
    weights: dict[str, np.ndarray]  # by name, [len(SEEN)]
    sure: float = float("inf")

    def walk(self, asked: Asked) -> "Told":
        """As the product goes."""
        told = Told(asked)
        for looks, state in enumerate(asked.states, 1):
            right = state.rows @ self.weights["right"]
            at = int(np.argmax(right))
            told = Told(asked, state.found[at], float(state.rows[at] @ self.weights["there"]), float(right[at]), looks)
            if right[at] >= self.sure and told.there >= 0:
                break
        return told


@dataclass(frozen=True)
class Told:
    asked: Asked
    said: Proposal | None = None
    there: float = -np.inf
    right: float = -np.inf
    looks: int = 0

    def score(self, least: float = 0.0, measure: Callable[[str, str], float] = f1) -> float:
        return self.asked.score(self.said, measure) if self.said and self.there >= least else 0.0


def both(told: Iterable[Asked]) -> list[Asked]:
    """Each with its reading and without."""
    return [way for one in told for way in ((one, one.unread) if one.was_read else (one,))]


def fitted(told: Sequence[Asked]) -> Weights:
    ways = both(told)
    open_ones = [(way, state) for way in ways if way.answers for state in way.states]
    rows = np.concatenate([state.rows for _, state in open_ones])
    near = np.array([way.score(one) for way, state in open_ones for one in state.found])
    share = np.concatenate([np.full(len(state.found), 1 / len(state.found)) for _, state in open_ones])
    right = logistic(rows, near, share)
    chosen = [(bool(way.answers), state.rows[np.argmax(state.rows @ right)]) for way in ways for state in way.states]
    known, best_rows = zip(*chosen, strict=True)
    return Weights(
        {"right": right, "there": logistic(np.array(best_rows), np.array(known, float), np.ones(len(known)))}
    )


def logistic(rows: np.ndarray, wanted: np.ndarray, share: np.ndarray) -> np.ndarray:
    """[features]: rows [N, features], wanted [N] from 0 to 1, share [N] of each in the sum. Newton's steps, ridge."""
    spread = rows.std(axis=0)
    spread[spread < 1e-9] = 1.0
    x, share, weights = rows / spread, share / share.sum(), np.zeros(rows.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        slope = x.T @ (share * (p - wanted)) + RIDGE * weights
        bend = (x.T * (share * p * (1 - p))) @ x + RIDGE * np.eye(len(weights))
        weights -= np.linalg.solve(bend, slope)
    return weights / spread


def left_out(told: Sequence[Asked]) -> list[tuple[Asked, Weights]]:
    """Each with weights that its paragraph had no part in."""
    fold = lambda one: crc32(one.paragraph.encode()) % FOLDS  # noqa: E731
    made = [fitted([one for one in told if fold(one) != n]) for n in range(FOLDS)]
    return [(one, made[fold(one)]) for one in told]


def learned(told: Sequence[Asked]) -> Weights:
    pairs = [pair for pair in left_out(told) if is_squad(pair[0])]
    wanted = gains(pairs, np.inf) - COST
    edges = (edge for edge in np.arange(-2, 6.01, 0.25) if np.all(gains(pairs, edge) >= wanted))
    return replace(fitted(told), sure=float(next(edges, np.inf)))


def gains(pairs: Sequence[tuple[Asked, Weights]], sure: float) -> np.ndarray:
    """[2]: mean F1 of the questions that the text answers; share of the others of which it is said."""
    told = [replace(weights, sure=sure).walk(one) for one, weights in pairs]
    scores = [one.score() for one in told if one.asked.answers]
    return np.array([np.mean(scores), np.mean([one.there < 0 for one in told if not one.asked.answers])])


def is_article(one: Asked) -> bool:
    return one.source == ARTICLES and not is_short(one)


def is_short(one: Asked) -> bool:
    return len(one.views[0].text) <= PASSAGE_BUDGET


def is_squad(one: Asked) -> bool:
    return one.source.startswith("squad")


def report(told: Sequence[Asked], made: Weights) -> None:
    """Cross-validated, with all looks and until sure; then what an edge other than even odds would give."""
    for name, part in parts(left_out(told)).items():
        for sure in (np.inf, made.sure):
            walked = [replace(weights, sure=sure).walk(one) for one, weights in part]
            print(f"{name:24} {'until sure' if sure < np.inf else 'all looks ':10} {figures(walked, 0.0)}")
        for least in CURVE:
            print(f"  from log odds {least:4.1f}: {figures(walked, least)}", flush=True)


def parts(pairs: Sequence[tuple[Asked, Weights]]) -> dict[str, list[tuple[Asked, Weights]]]:
    squad = [pair for pair in pairs if is_squad(pair[0])]
    read = [pair for pair in squad if not is_short(pair[0])]
    return {
        "SQuAD, whole article": [pair for pair in read if is_article(pair[0])],
        "SQuAD, text read": read,
        "SQuAD, text not read": [(one.unread, weights) for one, weights in read],
        "SQuAD, one paragraph": [pair for pair in squad if is_short(pair[0])],
        "stories": [pair for pair in pairs if not is_squad(pair[0])],
    }


def figures(told: Sequence[Told], least: float) -> str:
    can, cannot = [one for one in told if one.asked.answers], [one for one in told if not one.asked.answers]
    mean = lambda values: 100 * float(np.mean(values)) if values else 0.0  # noqa: E731
    scores = [mean([one.score(least, measure) for one in can]) for measure in (f1, exact)]
    refused = [mean([one.there < least for one in some]) for some in (cannot, can)]
    looks = np.mean([one.looks for one in told])
    shown = "F1 {:.1f} EM {:.1f} said so {:.1f} % false refusals {:.1f} %".format(*scores, *refused)
    return f"{shown} {looks:.1f} looks n={len(can)}, {len(cannot)}"
