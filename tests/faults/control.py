"""The control: an engine that nobody kills and no vault serves. What it says after a list of segments is the truth."""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from engine import Engine, EngineConfig, SamplingParams, Token, digest, load_model
from tests.faults.model import END, Ids, Segments

GRID = 64
LIVE = 48  # sequences kept to go on from


def digest_of(segments: Segments) -> str:
    return digest.of_segments(segments, GRID).hex()


def position_of(segments: Segments) -> int:
    return sum(len(ids) for ids in segments)


@dataclass(frozen=True)
class Said:
    """A greedy continuation; `scores` are the log-probabilities as float32 bytes, to be compared bit for bit."""

    ids: Ids
    scores: bytes

    @staticmethod
    def of(ids: list[int], logprobs: list[float]) -> Said:
        return Said(tuple(ids), struct.pack(f"<{len(logprobs)}f", *logprobs))


class Control:
    """Memoised by digest; may be asked from several threads."""

    def __init__(self, model_dir: Path) -> None:
        self._engine = Engine(
            load_model(model_dir), EngineConfig(max_slots=LIVE + 4, max_tokens=262_144)
        )
        self._live: OrderedDict[str, int] = OrderedDict()  # digest -> sequence; least recently used first
        self._said: dict[tuple[str, int], Said] = {}
        self._lock = threading.Lock()

    def greedy(self, segments: Segments, count: int) -> Said:
        """What follows `segments`, up to `count` tokens or the end token."""
        key = digest_of(segments), count
        with self._lock:
            if key not in self._said:
                self._said[key] = self._decode(segments, count)
            return self._said[key]

    def _decode(self, segments: Segments, count: int) -> Said:
        seq = self._engine.fork(self._reading(segments[:-1]))
        self._run(self._engine.read(seq, segments[-1]))
        tokens = self._run(self._engine.generate(seq, SamplingParams(max_tokens=count, stop_ids=(END,))))
        self._engine.close(seq)
        return Said.of([token.id for token in tokens], [token.logprob for token in tokens])

    def _reading(self, segments: Segments) -> int:
        """A live sequence that stands behind `segments`, made from the longest live prefix."""
        name = digest_of(segments)
        if name in self._live:
            self._live.move_to_end(name)
            return self._live[name]
        seq = self._engine.fork(self._reading(segments[:-1])) if segments else self._engine.open()
        if segments:
            self._run(self._engine.read(seq, segments[-1]))
        while len(self._live) >= LIVE:
            self._engine.close(self._live.popitem(last=False)[1])
        self._live[name] = seq
        return seq

    def _run(self, request: int) -> list[Token]:
        events = []
        while self._engine.busy:
            events += self._engine.step()
        return [event for event in events if isinstance(event, Token)]
