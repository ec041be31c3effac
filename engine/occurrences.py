"""The stretches of a source: what follows each of them, and where it stands.

A source is kept as a suffix array: its positions in the order of the text that follows them. Those that begin with
what was copied so far lie side by side in it, and so do, among them, those that go on with the same id. Where one such
child ends and the next begins is known beforehand, sorted by depth; so the ids that may follow are found in
O(log n + their number), and no step looks at the source itself.

Built by prefix doubling (Manber and Myers 1993, "Suffix arrays: a new method for on-line string searches").
"""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass
from functools import cached_property

import numpy as np

SEAM = -1  # stands where no quote may go across
DEEPEST = 512  # ids by which positions are told apart; a power of two


class Occurrences:
    """ids [n] int32, 0 and up, SEAM between pieces. 12 bytes an id. Immutable.

    ``begins`` [vocab] bool: the ids that a quote may begin with and end before, for a character may be spread over
    several ids; None: all. ``spaced`` [vocab] int32: the id that says the same behind a space, or -1: where it stands,
    a quote may leave the space out; None: of none.
    """

    def __init__(self, ids: np.ndarray, begins: np.ndarray | None = None, spaced: np.ndarray | None = None) -> None:
        self.ids = np.append(np.asarray(ids, np.int32), np.int32(SEAM))
        self.largest = max(0, int(self.ids.max()))
        self.begins = np.ones(self.largest + 1, bool) if begins is None else begins
        self.spaced = np.full(len(self.begins), -1, np.int32) if spaced is None else spaced
        if self.largest >= len(self.begins) or len(self.begins) != len(self.spaced):
            raise ValueError(f"ids go up to {self.largest}; {len(self.begins)} and {len(self.spaced)} are described")
        self.order, common = suffix_array(self.ids)
        self._edges = (np.argsort(common, kind="stable") + 1).astype(np.int32)  # by depth, ascending
        self._depths = np.searchsorted(common[self._edges - 1], np.arange(DEEPEST + 1)).tolist()
        self.start = Place(self, 0, len(self.order), 0)

    @property
    def nbytes(self) -> int:
        return self.ids.nbytes + self.order.nbytes + self._edges.nbytes

    @cached_property
    def openings(self) -> np.ndarray:
        """The ids that a quote may begin with, ascending, int32."""
        first = np.zeros(len(self.begins), bool)
        first[self.start.allowed()] = True
        first |= np.append(first, False)[self.spaced]  # at -1 stands False
        return np.flatnonzero(first & self.begins).astype(np.int32)

    def opened(self, token: int) -> list[Place]:
        """The places behind the first id of a quote: where it stands, and where it stands behind a space."""
        found = (self.start.take(int(first)) for first in (token, self.spaced[token]) if first >= 0)
        return [place for place in found if place]

    def find(self, ids: Ids[int]) -> tuple[np.ndarray, np.ndarray]:
        """Where a quote of ``ids``, 1 to DEEPEST - 1, stands: (positions [k] int32, ascending; [k] bool, whether the id
        there says a space more).
        """
        places = self.opened(ids[0])
        for token in ids[1:]:
            places = [after for place in places if (after := place.take(token))]
        positions = np.sort(np.concatenate([np.empty(0, np.int32), *(place.positions() for place in places)]))
        return positions, self.ids[positions] != ids[0]

    def edges(self, first: int, last: int, depth: int) -> np.ndarray:
        """Where, in order[first:last], all alike in ``depth`` ids, the next id changes."""
        edges = self._edges[self._depths[depth] : self._depths[depth + 1]]
        return edges[np.searchsorted(edges, first, "right") : np.searchsorted(edges, last)]


@dataclass(frozen=True, eq=False)
class Place:
    """The positions order[first:last]: all those from where the source goes on like what was copied, ``depth`` ids."""

    source: Occurrences
    first: int
    last: int
    depth: int

    @cached_property
    def _children(self) -> tuple[np.ndarray, np.ndarray]:
        """(ids that follow somewhere, ascending; where in the order each begins, and the end)."""
        source = self.source
        edges = source.edges(self.first, self.last, self.depth)
        bounds = np.concatenate(([self.first], edges, [self.last]))
        ids = source.ids[source.order[bounds[:-1]] + self.depth]
        seam = int(ids[0] == SEAM)
        return ids[seam:], bounds[seam:]

    def allowed(self) -> np.ndarray:
        """The ids that go on from here, ascending, int32."""
        return self._children[0]

    def may_end(self) -> bool:
        """Whether no character is left half."""
        ids = self._children[0]
        return not len(ids) or bool(self.source.begins[ids[0]])

    def take(self, token: int) -> Place | None:
        """The place behind ``token``; None where it does not follow, or is deeper than the order knows."""
        ids, bounds = self._children
        at = int(np.searchsorted(ids, token))
        if self.depth + 1 >= DEEPEST or at == len(ids) or ids[at] != token:
            return None
        return Place(self.source, int(bounds[at]), int(bounds[at + 1]), self.depth + 1)

    def positions(self) -> np.ndarray:
        """Where in the source the copied stretch begins, int32."""
        return self.source.order[self.first : self.last]


def suffix_array(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(order [n] int32 of positions by the DEEPEST ids that follow; [n-1] uint16: how many ids neighbours share).

    A rank is the number of positions that come before; those alike in ``length`` ids have the same.
    """
    _, kinds, counts = np.unique(ids, return_inverse=True, return_counts=True)
    ranks, length = [(np.cumsum(counts) - counts)[kinds].astype(np.int32)], 1
    alike = np.flatnonzero(counts[kinds] > 1)
    while length < DEEPEST and len(alike):
        finer, alike = doubled(ranks[-1], alike, length)
        ranks.append(finer)
        length *= 2
    order = np.argsort(ranks[-1], kind="stable").astype(np.int32)
    return order, shared(order, ranks)


def doubled(rank: np.ndarray, alike: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks by ``length`` ids to ranks by twice as many, and which positions are still alike with others."""
    padded = np.append(rank, -1)  # past the end sorts first
    keys = rank[alike].astype(np.int64) * (len(rank) + 1) + padded[np.minimum(alike + length, len(rank))] + 1
    by = np.argsort(keys)
    alike, keys = alike[by], keys[by]
    old, new = begun(rank[alike]), begun(keys)
    finer = rank.copy()
    finer[alike] += (new - old).astype(np.int32)
    single = new == np.arange(len(new))  # the first of its kind
    single[:-1] &= single[1:]  # and the next one is of another
    return finer, alike[~single]


def begun(sorted_keys: np.ndarray) -> np.ndarray:
    """For each the index of the first that is equal to it."""
    first = np.append(True, sorted_keys[1:] != sorted_keys[:-1])
    return np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))


def shared(order: np.ndarray, ranks: list[np.ndarray]) -> np.ndarray:
    """How many ids each position shares with its neighbour in the order, at most DEEPEST: the widest rank first."""
    one, other = order[:-1].copy(), order[1:].copy()
    for level in reversed(range(len(ranks))):
        rank = np.append(ranks[level], -1)  # one of the two may have come to the end
        same = (rank[one] == rank[other]) * np.int32(1 << level)
        one, other = one + same, other + same
    return np.minimum(one - order[:-1], DEEPEST).astype(np.uint16)
