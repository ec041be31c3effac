"""Quotes by construction: between two ids, only stretches of a source may be decoded.

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
from itertools import pairwise

import numpy as np

SEAM = -1  # stands where no quote may go across
DEEPEST = 512  # ids by which positions are told apart; a power of two
LONGEST = 500  # ids of a quote; a few less, since the last character may need more


class Occurrences:
    """ids [n] int32, 0 and up, SEAM between pieces. ``begins`` [vocab] bool: the ids that a quote may begin with and
    end before, for a character may be spread over several ids; None: all. 12 bytes an id. Immutable.
    """

    def __init__(self, ids: np.ndarray, begins: np.ndarray | None = None) -> None:
        self.ids = np.append(np.asarray(ids, np.int32), np.int32(SEAM))
        self.largest = max(0, int(self.ids.max()))
        self.begins = np.ones(self.largest + 1, bool) if begins is None else begins
        if self.largest >= len(self.begins):
            raise ValueError(f"ids go up to {self.largest}; begins says something of {len(self.begins)}")
        self.order, common = suffix_array(self.ids)
        self._edges = (np.argsort(common, kind="stable") + 1).astype(np.int32)  # by depth, ascending
        self._depths = np.searchsorted(common[self._edges - 1], np.arange(DEEPEST + 1)).tolist()

    @property
    def nbytes(self) -> int:
        return self.ids.nbytes + self.order.nbytes + self._edges.nbytes

    @cached_property
    def start(self) -> Place:
        """Nothing is copied yet."""
        return Place(self, 0, len(self.order), 0)

    def find(self, ids: Ids[int]) -> np.ndarray:
        """The positions where ``ids`` (at most DEEPEST) stand, ascending; ids may hold what cannot begin a quote."""
        place: Place | None = self.start
        for token in ids:
            place = place.take(token) if place else None
        return place.positions() if place else np.empty(0, np.int32)

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
        """The ids that go on from here, ascending, int32. A quote begins with ``begins``, and goes on with any."""
        ids = self._children[0]
        return ids if self.depth else ids[self.source.begins[ids]]

    def may_end(self) -> bool:
        """Whether something was copied, and no character is left half."""
        ids = self._children[0]
        return self.depth > 0 and (not len(ids) or bool(self.source.begins[ids[0]]))

    def take(self, token: int) -> Place | None:
        """The place behind ``token``; None where it does not follow, or is deeper than the order knows."""
        ids, bounds = self._children
        at = int(np.searchsorted(ids, token))
        if self.depth + 1 >= DEEPEST or at == len(ids) or ids[at] != token:
            return None
        return Place(self.source, int(bounds[at]), int(bounds[at + 1]), self.depth + 1)

    def positions(self) -> np.ndarray:
        """Where in the source the copied stretch begins, ascending, int32."""
        return np.sort(self.source.order[self.first : self.last])


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
        if not any((source.start.allowed() != self.close).any() for source in self.sources):
            raise ValueError("there is nothing to copy from")

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
        self._places: tuple[Place, ...] | None = None  # None: no quote is open

    def allowed(self) -> np.ndarray | None:
        """The ids that may come next, ascending; None: any."""
        if self._places is None:
            return None
        may_end, depth = any(place.may_end() for place in self._places), self._places[0].depth
        if depth >= DEEPEST - 1 or (may_end and depth >= self.copying.longest):
            return np.array([self.copying.close])
        ids = united([place.allowed() for place in self._places])
        ids = ids[ids != self.copying.close]  # a source may hold it, where it is an ordinary id
        if may_end or not len(ids):
            ids = np.insert(ids, np.searchsorted(ids, self.copying.close), self.copying.close)
        return ids

    def feed(self, token: int) -> None:
        """``token`` was decoded; it is one of those allowed."""
        if self._places is None:
            opened = token == self.copying.open
            self._places = tuple(source.start for source in self.copying.sources) if opened else None
        elif token == self.copying.close:
            self._places = None
        else:
            taken = (place.take(token) for place in self._places)
            self._places = tuple(place for place in taken if place)


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
