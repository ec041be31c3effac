"""Who runs in this step, and for how many tokens. Plain Python over requests: no tensor, no memory."""

from collections import deque
from dataclasses import dataclass

from engine.request import Generate, Read, Request


@dataclass(frozen=True)
class Plan:
    decodes: list[Generate]  # one token each
    chunks: list[tuple[Read, int]]  # in this order, so many tokens each; one reader may appear several times


class Scheduler:
    """Every step: one token for whoever decodes, then grid chunks for the readers in turn, one each, round and round.

    The turn is kept between steps. So a question of a few chunks passes a book in as many rounds, whatever the length
    of the book. When forwards run one after another (``serial``), a decoded token would wait for all chunks of its
    step; then, while anybody decodes, a step takes one chunk only.
    """

    def __init__(self, grid: int, prefill_tokens: int, serial: bool) -> None:
        self.grid, self.prefill_tokens, self.serial = grid, prefill_tokens, serial
        self.readers: deque[Read] = deque()
        self.decoders: dict[int, Generate] = {}

    def add(self, request: Request) -> None:
        if isinstance(request, Read):
            self.readers.append(request)
        else:
            self.decoders[request.id] = request

    def remove(self, request: Request) -> None:
        if isinstance(request, Read):
            self.readers.remove(request)
        else:
            del self.decoders[request.id]

    def plan(self) -> Plan:
        decodes = list(self.decoders.values())
        budget = self.grid if self.serial and decodes else self.prefill_tokens
        return Plan(decodes, self._chunks(budget))

    def _chunks(self, budget: int) -> list[tuple[Read, int]]:
        chunks: list[tuple[Read, int]] = []
        planned = {read.id: read.done for read in self.readers}
        complete: list[Read] = []
        waiting = self.readers
        while waiting and budget > 0:
            read = waiting.popleft()
            count = min(self.grid, len(read.ids) - planned[read.id])
            chunks.append((read, count))
            planned[read.id] += count
            budget -= self.grid  # a shorter chunk takes as long
            (waiting if planned[read.id] < len(read.ids) else complete).append(read)
        waiting.extend(complete)  # they end with this step
        return chunks
