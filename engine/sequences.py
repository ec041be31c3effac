"""The live sequences: what each one is, and the one way by which slots and pages come and go."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from torch import Tensor

from engine.cache import BooksError, Cache
from engine.digest import START
from engine.pools import Pools
from engine.provenance import Tag, page_tags


class UnknownSequence(KeyError):
    """No live sequence has this number: it was closed, or ended with an error."""


class SequenceBusy(RuntimeError):
    """The sequence has a request running (one at a time), or is not restored yet."""


@dataclass
class Sequence:
    """A live sequence: position, digest, book, slot and pages move together or not at all."""

    id: int
    slot: int
    pages: list[int] = field(default_factory=list)
    position: int = 0
    digest: bytes = START
    book: list[Tag] = field(default_factory=list)  # what pages[i] must say; as many as the position needs
    logits: Tensor | None = None  # [vocab] after the last token; None in the middle of a segment and after a restore
    best: tuple[int, float] | None = None  # the likeliest id of these logits and its log-probability, when known
    put: Tensor | None = None  # [tokens] bool: which latents a restore has put so far; None: it is whole

    @property
    def tag(self) -> Tag:
        return Tag(self.position, self.digest)

    def advance(self, after: Tag, page_tokens: int) -> None:
        """Books rows that were written up to ``after``."""
        for i, tag in page_tags(self.position, after, page_tokens):
            self.book[i : i + 1] = [tag]
        self.position, self.digest = after.position, after.digest


class Sequences:
    def __init__(self, cache: Cache, pools: Pools) -> None:
        self._cache, self._pools = cache, pools
        self._live: dict[int, Sequence] = {}
        self._numbers = count(1)

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._live.values())

    def __getitem__(self, seq: int) -> Sequence:
        if seq not in self._live:
            raise UnknownSequence(seq)
        return self._live[seq]

    def whole(self, seq: int) -> Sequence:
        """A sequence that may be used."""
        sequence = self[seq]
        if sequence.put is not None:
            raise SequenceBusy(f"sequence {seq} is being restored: finish_restore or close it first")
        return sequence

    def open(self, pages: int = 0) -> Sequence:
        slot = self._cache.take_slot(pages)
        self._pools.zero_slot(slot)
        sequence = Sequence(next(self._numbers), slot, self._cache.take_pages(pages))
        self._live[sequence.id] = sequence
        return sequence

    def fork(self, parent: Sequence) -> Sequence:
        """Full pages are shared; the last, partial page and the slot are copied."""
        full = parent.position // self._cache.page_tokens
        partial = self._cache.pages_for(parent.position) - full
        child = self.open(partial)
        if partial:
            self._pools.copy_page(parent.pages[full], child.pages[0])
        child.pages = self._cache.share(parent.pages[:full]) + child.pages
        self._pools.copy_slot(parent.slot, child.slot)
        child.position, child.digest, child.book = parent.position, parent.digest, list(parent.book)
        child.logits, child.best = parent.logits, parent.best
        return child

    def reserve(self, sequence: Sequence, tokens: int) -> None:
        """Pages for ``tokens`` more, all at once: what is admitted never stops for memory."""
        needed = self._cache.pages_for(sequence.position + tokens) - len(sequence.pages)
        sequence.pages += self._cache.take_pages(needed)

    def trim(self, sequence: Sequence) -> None:
        """Gives back the pages beyond the position."""
        self._give_back(sequence, keep=self._cache.pages_for(sequence.position))

    def close(self, sequence: Sequence) -> None:
        self._give_back(sequence, keep=0, slot=True)
        del self._live[sequence.id]

    def _give_back(self, sequence: Sequence, keep: int, slot: bool = False) -> None:
        """Every page and every slot goes back here: pages beyond ``keep``, and the slot when the sequence closes."""
        self._cache.give_back(sequence.pages[keep:], sequence.slot if slot else None)
        del sequence.pages[keep:]

    def recount(self, running: set[int]) -> None:
        """Compares the books with what the live sequences hold; raises BooksError where they differ."""
        self._cache.recount([s.slot for s in self], [s.pages for s in self])
        for s in self:
            end = s.position if s.put is None else len(s.put)
            if s.id not in running and len(s.pages) != self._cache.pages_for(end):
                raise BooksError(f"sequence {s.id} at {end} holds {len(s.pages)} pages")
            if len(s.book) != self._cache.pages_for(s.position):
                raise BooksError(f"sequence {s.id} at {s.position} has {len(s.book)} pages in its book")
