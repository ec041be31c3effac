"""Host memory for blocks: fixed slots, each with one verified plain payload under its name.

Plain text must not outlast its name: a slot is zeroed when it comes back unpublished or forgotten, and publishing
zeroes what an earlier, longer payload left behind the new one.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from services.errors import Unavailable


class RingBusy(Unavailable):
    """Every slot was held for too long."""

    code, title = "ring_busy", "The vault's memory is in use"


@dataclass(frozen=True)
class RingStatistics:
    slots: int
    held: int  # slots in somebody's hands
    named: int  # slots with a published payload
    bytes: int  # of the published payloads
    hits: int
    misses: int
    evictions: int


class Slot:
    """Room for one payload, held by whoever got it from the ring; as a context manager it is released at the end.

    name: what is published here, None before fill and after forget. length: bytes of it.
    """

    def __init__(self, ring: "Ring", memory: memoryview) -> None:
        self._ring, self._memory = ring, memory
        self.name: bytes | None = None
        self.length = 0
        self.holders = 0
        self.used = 0  # bytes from the start that may not be zero

    def view(self, length: int) -> memoryview:
        """The first ``length`` bytes. Write only between acquire and fill, and keep it no longer than the slot."""
        if not 0 <= length <= len(self._memory):
            raise ValueError(f"{length:,} bytes were asked of a slot of {len(self._memory):,}")
        if self.name is None:
            self.used = max(self.used, length)
        return self._memory[:length]

    def __enter__(self) -> "Slot":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ring.release(self)


class Ring:
    """``slots`` equal pieces of one allocation. Thread-safe. Of those nobody holds the least recently used goes first.

    allocate(total_bytes) is asked once for a writable buffer: bytearray, or pinned memory. Who holds slots while
    waiting for more can wait for another who does the same: hold few.
    """

    def __init__(self, slot_bytes: int, slots: int, allocate: Callable[[int], Any] = bytearray) -> None:
        if slot_bytes < 1 or slots < 1:
            raise ValueError(f"a ring needs slots with room, not {slots} of {slot_bytes} bytes")
        self.slot_bytes, self.slots = slot_bytes, slots
        self._memory = memoryview(allocate(slot_bytes * slots)).cast("B")
        self._zeros = memoryview(bytes(slot_bytes))
        starts = range(0, slot_bytes * slots, slot_bytes)
        self._free = [Slot(self, self._memory[start : start + slot_bytes]) for start in starts]
        self._idle: OrderedDict[bytes, Slot] = OrderedDict()  # published and not held; the least recently used first
        self._published: dict[bytes, Slot] = {}
        self._came_free = threading.Condition()
        self._hits = self._misses = self._evictions = 0

    def acquire(self, timeout_s: float = 30.0) -> Slot:
        """An unpublished slot, held; its content is undefined. Raises RingBusy when none came free in time."""
        with self._came_free:
            if not self._came_free.wait_for(lambda: self._free or self._idle, timeout_s):
                raise RingBusy(
                    f"all {self.slots} slots of the vault's memory were held for {timeout_s:g} s:"
                    " try again, or raise SHIORI_RING_MB"
                )
            slot = self._free.pop() if self._free else self._evicted()
            slot.holders = 1
            return slot

    def find(self, name: bytes) -> Slot | None:
        """The slot published under the name, held; None when there is none."""
        with self._came_free:
            slot = self._published.get(name)
            if slot is None:
                self._misses += 1
                return None
            self._hits += 1
            self._idle.pop(name, None)
            slot.holders += 1
            return slot

    def fill(self, slot: Slot, name: bytes, length: int) -> None:
        """Publishes the first ``length`` bytes of an acquired slot. What is published under the name already stays."""
        with self._came_free:
            if slot.holders != 1 or slot.name is not None:
                raise ValueError("only a slot fresh from acquire can be filled, once")
            if not 0 <= length <= self.slot_bytes:
                raise ValueError(f"a payload of {length:,} bytes does not fit a slot of {self.slot_bytes:,}")
            if name in self._published:
                return
            self._zero(slot, length)
            slot.name, slot.length = name, length
            self._published[name] = slot

    def release(self, slot: Slot) -> None:
        """Lets go. With the last holder, what was not published or is forgotten becomes zeros."""
        with self._came_free:
            if slot.holders < 1:
                raise ValueError("the slot was released already")
            slot.holders -= 1
            if slot.holders:
                return
            if slot.name is None:
                self._give_back(slot)
            else:
                self._idle[slot.name] = slot
            self._came_free.notify()

    def forget(self, names: Iterable[bytes]) -> None:
        """Nobody finds these any more; their bytes are zeroed now, or when the last holder lets go."""
        with self._came_free:
            for name in names:
                if slot := self._published.pop(name, None):
                    slot.name = None
                    if self._idle.pop(name, None):
                        self._give_back(slot)

    def statistics(self) -> RingStatistics:
        with self._came_free:
            return RingStatistics(
                slots=self.slots,
                held=self.slots - len(self._free) - len(self._idle),
                named=len(self._published),
                bytes=sum(slot.length for slot in self._published.values()),
                hits=self._hits,
                misses=self._misses,
                evictions=self._evictions,
            )

    def _evicted(self) -> Slot:
        name, slot = self._idle.popitem(last=False)
        del self._published[name]
        slot.name, slot.length = None, 0
        self._evictions += 1
        return slot

    def _give_back(self, slot: Slot) -> None:
        self._zero(slot, 0)
        slot.length = 0
        self._free.append(slot)

    def _zero(self, slot: Slot, start: int) -> None:
        """What may not be zero yet, from here on."""
        if slot.used > start:
            slot._memory[start : slot.used] = self._zeros[start : slot.used]
        slot.used = start
