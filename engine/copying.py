"""Quotes by construction: between two ids, only stretches of a source are decoded (occurrences.py)."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from engine.occurrences import DEEPEST, Occurrences, Place

LONGEST = 500  # ids of a quote; a few less than the deepest, since the last character may need more


@dataclass(frozen=True, eq=False)
class Copying:
    """What a request may quote: between ``open`` and ``close``, stretches of at least one and at most about ``longest``
    ids that stand in one of the ``sources``.
    """

    sources: tuple[Occurrences, ...]
    open: int
    close: int
    longest: int = 128

    def __post_init__(self) -> None:
        if self.open == self.close:
            raise ValueError(f"a quote opens and closes with the same id {self.open}")
        if not 1 <= self.longest <= LONGEST:
            raise ValueError(f"a quote of {self.longest} ids: at least 1, at most {LONGEST}")
        if not len(self.openings):
            raise ValueError("there is nothing to copy from")

    @cached_property
    def openings(self) -> np.ndarray:
        """The ids that a quote may begin with, ascending, int32."""
        return without(united([np.empty(0, np.int32), *(source.openings for source in self.sources)]), self.close)

    def check(self, ids: Ids[int]) -> None:
        """Raises ValueError when ``ids`` open a quote that the sources do not have."""
        copier = Copier(self)
        for token in ids:
            allowed = copier.allowed()
            if allowed is not None and token not in allowed:
                raise ValueError(f"the quote that is forced does not stand in the source: id {token} does not follow")
            copier.feed(token)


class Copier:
    """A request's quotes as they are decoded, id by id."""

    def __init__(self, copying: Copying) -> None:
        self.copying = copying
        self._copied = -1  # ids of the open quote; -1: none is open
        self._places: list[Place] = []

    def allowed(self) -> np.ndarray | None:
        """The ids that may come next, ascending; None: any."""
        copying = self.copying
        if self._copied < 0:
            return None
        if self._copied == 0:
            return copying.openings
        may_end = any(place.may_end() for place in self._places)
        if self._copied >= DEEPEST - 1 or (may_end and self._copied >= copying.longest):
            return np.array([copying.close])
        ids = without(united([place.allowed() for place in self._places]), copying.close)
        if may_end or not len(ids):
            ids = np.insert(ids, np.searchsorted(ids, copying.close), copying.close)
        return ids

    def feed(self, token: int) -> None:
        """``token`` was decoded; it is one of those allowed."""
        if self._copied < 0:
            self._copied = 0 if token == self.copying.open else -1
        elif token == self.copying.close:
            self._copied, self._places = -1, []
        else:
            self._places = self._after(token)
            self._copied += 1

    def _after(self, token: int) -> list[Place]:
        if self._copied == 0:
            return [place for source in self.copying.sources for place in source.opened(token)]
        return [after for place in self._places if (after := place.take(token))]


def without(ids: np.ndarray, closing: int) -> np.ndarray:
    """A source may hold the closing id, where it is an ordinary one: it closes all the same."""
    return ids[ids != closing]


def united(sets: Ids[np.ndarray]) -> np.ndarray:
    """Ascending, as each of them is."""
    return sets[0] if len(sets) == 1 else np.unique(np.concatenate(sets))


def quotes_in(ids: Ids[int], opening: int, closing: int) -> list[tuple[int, int]]:
    """(first, end) of each stretch behind ``opening``, up to ``closing`` or the end."""
    marks, inside = [], False
    for at, token in enumerate([*ids, closing]):
        if token == (closing if inside else opening):
            marks.append(at)
            inside = not inside
    return [(first + 1, end) for first, end in list(pairwise(marks))[::2]]
