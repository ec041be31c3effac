"""The ring: slots of host memory, shared by threads, wiped of what was deleted."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from services.vault.ring import Ring, RingBusy

SIZE = 64


def store(ring: Ring, name: bytes, payload: bytes) -> None:
    with ring.acquire() as slot:
        slot.view(len(payload))[:] = payload
        ring.fill(slot, name, len(payload))


def content(ring: Ring, name: bytes) -> bytes | None:
    if (slot := ring.find(name)) is None:
        return None
    with slot:
        return bytes(slot.view(slot.length))


class Memory:
    """What the ring was given, to look behind its back."""

    def __call__(self, total: int) -> bytearray:
        self.bytes = bytearray(total)
        return self.bytes


def test_what_was_filled_is_found_under_its_name() -> None:
    ring = Ring(SIZE, 2)
    store(ring, b"a", b"text of a")
    assert content(ring, b"a") == b"text of a"
    assert content(ring, b"b") is None
    found = ring.statistics()
    assert (found.slots, found.held, found.named, found.bytes, found.hits, found.misses) == (2, 0, 1, 9, 1, 1)


def test_memory_is_asked_for_once_and_slots_do_not_overlap() -> None:
    asked: list[int] = []

    def allocate(total: int) -> bytearray:
        asked.append(total)
        return bytearray(total)

    ring = Ring(SIZE, 3, allocate)
    for number in range(3):
        store(ring, b"%d" % number, bytes([number + 1]) * SIZE)
    assert asked == [3 * SIZE]
    assert [content(ring, b"%d" % number) for number in range(3)] == [bytes([n + 1]) * SIZE for n in range(3)]


def test_the_least_recently_used_goes_first() -> None:
    ring = Ring(SIZE, 2)
    store(ring, b"a", b"a")
    store(ring, b"b", b"b")
    assert content(ring, b"a") == b"a"  # now b is the older
    store(ring, b"c", b"c")
    assert [content(ring, name) for name in (b"a", b"b", b"c")] == [b"a", None, b"c"]
    assert ring.statistics().evictions == 1


def test_what_is_held_is_never_evicted() -> None:
    ring = Ring(SIZE, 2)
    store(ring, b"a", b"kept")
    with ring.find(b"a") or pytest.fail("lost") as held:
        for number in range(5):
            store(ring, b"%d" % number, b"x")
        assert bytes(held.view(held.length)) == b"kept"
    assert ring.statistics().held == 0


def test_when_all_are_held_waiting_ends_in_an_error_that_says_so() -> None:
    ring = Ring(SIZE, 2)
    slots = [ring.acquire(), ring.acquire()]
    with pytest.raises(RingBusy, match=r"all 2 slots .* were held for 0.05 s: .* SHIORI_RING_MB"):
        ring.acquire(timeout_s=0.05)
    for slot in slots:
        ring.release(slot)
    ring.release(ring.acquire(timeout_s=0))


def test_whoever_waits_gets_the_slot_that_comes_free() -> None:
    ring = Ring(SIZE, 1)
    held = ring.acquire()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: ring.acquire(timeout_s=60))
        ring.release(held)
        assert waiting.result() is held


def test_two_who_fill_the_same_name_keep_the_first_and_both_can_read() -> None:
    memory = Memory()
    ring = Ring(SIZE, 2, memory)
    first, second = ring.acquire(), ring.acquire()
    for slot, text in ((first, b"first"), (second, b"other")):
        slot.view(5)[:] = text
        ring.fill(slot, b"a", 5)
    assert bytes(second.view(5)) == b"other"
    ring.release(second)
    ring.release(first)
    assert content(ring, b"a") == b"first"
    assert b"other" not in memory.bytes


def test_forgotten_text_is_gone_from_memory() -> None:
    memory = Memory()
    ring = Ring(SIZE, 3, memory)
    store(ring, b"a", b"secret text")
    store(ring, b"b", b"other text")
    ring.forget([b"a", b"never there"])
    assert b"secret" not in memory.bytes and b"other text" in memory.bytes
    assert content(ring, b"a") is None


def test_forgotten_text_in_use_stays_whole_until_it_is_let_go() -> None:
    memory = Memory()
    ring = Ring(SIZE, 2, memory)
    store(ring, b"a", b"secret text")
    one, two = ring.find(b"a"), ring.find(b"a")
    assert one is not None and two is not None
    ring.forget([b"a"])
    assert content(ring, b"a") is None
    ring.release(one)
    assert bytes(two.view(two.length)) == b"secret text"
    ring.release(two)
    assert not any(memory.bytes)


def test_a_shorter_payload_leaves_nothing_of_the_longer_one_before_it() -> None:
    memory = Memory()
    ring = Ring(SIZE, 1, memory)
    store(ring, b"a", b"long secret text")
    store(ring, b"b", b"ok")
    assert bytes(memory.bytes).rstrip(b"\0") == b"ok"


def test_what_was_never_published_is_wiped() -> None:
    memory = Memory()
    ring = Ring(SIZE, 1, memory)
    with ring.acquire() as slot:
        slot.view(6)[:] = b"secret"
    assert not any(memory.bytes)


@pytest.mark.parametrize("length", [-1, SIZE + 1])
def test_lengths_outside_the_slot_are_refused(length: int) -> None:
    ring = Ring(SIZE, 1)
    with ring.acquire() as slot:
        with pytest.raises(ValueError, match="of a slot of 64"):
            slot.view(length)
        with pytest.raises(ValueError, match="does not fit a slot of 64"):
            ring.fill(slot, b"a", length)


def test_a_slot_is_filled_once_and_released_once() -> None:
    ring = Ring(SIZE, 1)
    slot = ring.acquire()
    ring.fill(slot, b"a", 0)
    with pytest.raises(ValueError, match="filled, once"):
        ring.fill(slot, b"b", 0)
    ring.release(slot)
    with pytest.raises(ValueError, match="released already"):
        ring.release(slot)


@pytest.mark.parametrize(("size", "count"), [(0, 1), (1, 0)])
def test_a_ring_without_room_is_refused(size: int, count: int) -> None:
    with pytest.raises(ValueError, match="needs slots with room"):
        Ring(size, count)


def test_many_threads_never_see_another_name_s_bytes_and_all_comes_back() -> None:
    memory = Memory()
    ring = Ring(SIZE, 4, memory)
    wrong: list[bytes] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(400):
            name = b"%d" % chance.randrange(8)
            found = ring.find(name)
            with found or ring.acquire() as slot:
                if found is None:
                    slot.view(SIZE)[:] = (name * SIZE)[:SIZE]
                    ring.fill(slot, name, SIZE)
                if bytes(slot.view(SIZE)) != (name * SIZE)[:SIZE]:
                    wrong.append(name)
            if chance.random() < 0.1:
                ring.forget([name])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert wrong == []
    assert ring.statistics().held == 0
    ring.forget(b"%d" % number for number in range(8))
    assert ring.statistics().named == 0 and not any(memory.bytes)
