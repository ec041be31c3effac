"""Host memory for blocks: fixed slots, each with one verified plain payload under its name."""

import threading
import time
from collections import OrderedDict
from collections.abc import Buffer, Callable, Iterable
from dataclasses import dataclass

from services.errors import Unavailable


class RingBusy(Unavailable):
    """Every slot was held for too long."""

    code, title = "ring_busy", "The vault's memory is in use"


@dataclass(frozen=True)
class RingStatistics:
    slots: int
    held: int  # slots in somebody's hands
    named: int  # slots with a published payload
    bytes: int  # of published payloads
    hits: int
    misses: int
    evictions: int


class Slot:
    """Room for one payload, held by whoever got it from the ring; as a context manager it lets go at the end.

    name: bytes | None, what is published here; length: bytes of it.
    """

    def view(self, length: int) -> memoryview:
        """The first ``length`` bytes. To be written only between acquire and fill; not to be kept after release."""


class Ring:
    """``slots`` equal pieces of one allocation. Thread-safe. Slots nobody holds are evicted least recently used first.

    allocate(total_bytes) gives a writable buffer, once: bytearray, or pinned memory.
    """

    def __init__(self, slot_bytes: int, slots: int, allocate: Callable[[int], Buffer] = bytearray) -> None: ...
    def acquire(self, timeout_s: float = 30.0) -> Slot:
        """An unnamed slot, held. Raises RingBusy when none came free in time."""

    def find(self, name: bytes) -> Slot | None:
        """The slot published under the name, held; None when there is none."""

    def fill(self, slot: Slot, name: bytes, length: int) -> None:
        """Publishes what an acquired slot now contains. If the name is published already, that one stays."""

    def release(self, slot: Slot) -> None:
        """Lets go. What was not published, or forgotten meanwhile, is overwritten with zeros."""

    def forget(self, names: Iterable[bytes]) -> None:
        """Nobody finds these any more; their bytes are zeroed, at once or when the last holder lets go."""

    def statistics(self) -> RingStatistics: ...
