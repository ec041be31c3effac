"""Who owns which page and which slot. Integers only: the memory itself is in pools.py.

A page is shared by reference count; only full pages are ever shared, so a page that is written to has one owner:

    parent  | page 7 | page 3 | page 9 .... |        position 600
    fork    | page 7 | page 3 | page 4 .... |        page 4 is a copy of page 9
"""

from collections.abc import Iterable


class EngineFull(RuntimeError):
    """No slot, or not enough pages, are free. Nothing was changed; try again when something has been closed."""


class BooksError(AssertionError):
    """Pages, slots or references do not add up: a leak or a double give-back."""


class Cache:
    def __init__(self, slots: int, pages: int, page_tokens: int) -> None:
        self.page_tokens = page_tokens
        self._free_slots = list(range(slots))
        self._free_pages = list(range(pages))
        self._references = [0] * pages
        self._slots = slots

    @property
    def free_slots(self) -> int:
        return len(self._free_slots)

    @property
    def free_pages(self) -> int:
        return len(self._free_pages)

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_tokens)

    def take_slot(self, pages: int = 0) -> int:
        """A slot, if besides it ``pages`` pages are free."""
        if not self._free_slots:
            raise EngineFull(f"all {self._slots} slots are taken")
        self._require(pages)
        return self._free_slots.pop()

    def take_pages(self, count: int) -> list[int]:
        self._require(count)
        taken = [self._free_pages.pop() for _ in range(count)]
        for page in taken:
            self._references[page] = 1
        return taken

    def _require(self, pages: int) -> None:
        if pages > self.free_pages:
            raise EngineFull(f"{pages} pages of {self.page_tokens} tokens are needed, {self.free_pages} are free")

    def share(self, pages: list[int]) -> list[int]:
        """One more reference to each of ``pages``, which must be full."""
        for page in pages:
            self._references[page] += 1
        return list(pages)

    def give_back(self, pages: Iterable[int], slot: int | None = None) -> None:
        """The one way back: every page loses a reference, and the slot, when given, is free again."""
        for page in pages:
            if self._references[page] == 0:
                raise BooksError(f"page {page} was given back twice")
            self._references[page] -= 1
            if self._references[page] == 0:
                self._free_pages.append(page)
        if slot is not None:
            if slot in self._free_slots:
                raise BooksError(f"slot {slot} was given back twice")
            self._free_slots.append(slot)

    def recount(self, slots: list[int], tables: list[list[int]]) -> None:
        """Compares the books with what the live sequences hold; raises BooksError where they differ."""
        held = [0] * len(self._references)
        for page in (page for table in tables for page in table):
            held[page] += 1
        wrong = {page: (n, held[page]) for page, n in enumerate(self._references) if n != held[page]}
        if wrong:
            raise BooksError(f"references of pages, (counted, held): {wrong}")
        if sorted(self._free_pages) != [page for page, n in enumerate(held) if n == 0]:
            raise BooksError(f"free pages {sorted(self._free_pages)} and held pages {tables} do not add up")
        if sorted(self._free_slots + slots) != list(range(self._slots)):
            raise BooksError(f"free slots {sorted(self._free_slots)} and held slots {sorted(slots)} do not add up")
