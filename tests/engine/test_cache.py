import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import BooksError, EngineFull
from engine.cache import Cache

SLOTS, PAGES = 3, 8
OPS = st.lists(st.tuples(st.sampled_from(["take", "share", "close", "trim"]), st.integers(0, 9)), max_size=40)


@given(OPS)
def test_whatever_is_done_the_books_add_up_and_everything_comes_back(ops):
    cache = Cache(SLOTS, PAGES, page_tokens=128)
    live: list[tuple[int, list[int]]] = []
    for op, n in ops:
        if op == "take" or not live:
            before = cache.free_slots, cache.free_pages
            try:
                slot = cache.take_slot(n)
            except EngineFull:
                assert before == (cache.free_slots, cache.free_pages)
                assert before[0] == 0 or before[1] < n
            else:
                live.append((slot, cache.take_pages(n)))
        elif op == "share" and cache.free_slots:
            live.append((cache.take_slot(), cache.share(live[n % len(live)][1])))
        elif op == "close":
            slot, pages = live.pop(n % len(live))
            cache.give_back(pages, slot)
        elif op == "trim":
            pages = live[n % len(live)][1]
            cache.give_back(pages[n:])
            del pages[n:]
        cache.recount([slot for slot, _ in live], [pages for _, pages in live])
    for slot, pages in live:
        cache.give_back(pages, slot)
    assert (cache.free_slots, cache.free_pages) == (SLOTS, PAGES)


def test_nothing_is_given_back_twice():
    cache = Cache(SLOTS, PAGES, 128)
    slot, pages = cache.take_slot(), cache.take_pages(1)
    cache.give_back(pages, slot)
    with pytest.raises(BooksError, match="page"):
        cache.give_back(pages)
    with pytest.raises(BooksError, match="slot"):
        cache.give_back([], slot)


@pytest.mark.parametrize("slots, tables", [([0], []), ([], [[0]]), ([], [[7, 7]]), ([2], [[7]])])
def test_a_recount_finds_a_leak(slots, tables):
    cache = Cache(SLOTS, PAGES, 128)
    assert cache.take_slot() == 2 and cache.take_pages(1) == [7]
    if (slots, tables) == ([2], [[7]]):
        return cache.recount(slots, tables)
    with pytest.raises(BooksError):
        cache.recount(slots, tables)


def test_pages_for_rounds_up():
    assert [Cache(1, 1, 128).pages_for(n) for n in (0, 1, 128, 129)] == [0, 1, 1, 2]
