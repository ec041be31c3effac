"""Driving an engine in tests: run until nothing is left, with everything that nobody owns poisoned."""

import random

from torch import Tensor

from engine import Engine, EngineConfig, Event, SamplingParams, Token
from engine.model import KimiLinear

NAN = float("nan")


def engine_of(model: KimiLinear, **settings: object) -> Engine:
    """A small engine whose memory is NaN wherever it was never written."""
    defaults = {"max_slots": 6, "max_tokens": 8192, "page_tokens": 128}
    engine = Engine(model, EngineConfig(**(defaults | settings)))  # type: ignore[arg-type]
    poison(engine)
    return engine


def poison(engine: Engine) -> None:
    """Free pages and free slots become NaN: memory that is read without being owned and written shows at once."""
    slots, pages = engine._cache._free_slots, engine._cache._free_pages
    engine.pools.kda[:, slots] = NAN
    engine.pools.conv[:, slots] = NAN
    engine.pools.latents[:, pages] = NAN


def run(engine: Engine) -> list[Event]:
    events: list[Event] = []
    while engine.busy:
        events += engine.step()
        engine.check_idle()
        poison(engine)
    return events


def read(engine: Engine, sequence: int, ids: list[int], score: bool = False) -> list[Event]:
    engine.read(sequence, ids, score)
    return run(engine)


def decode(engine: Engine, sequence: int, **params: object) -> list[int]:
    engine.generate(sequence, SamplingParams(**params))  # type: ignore[arg-type]
    return [event.id for event in run(engine) if isinstance(event, Token)]


def state(engine: Engine, sequence: int) -> dict[str, Tensor]:
    """Everything a sequence is, logits included when there are some."""
    exported, logits = engine.export(sequence), engine._sequences[sequence].logits
    parts = exported.tensors | {"latents": exported.latents}
    return parts if logits is None else parts | {"logits": logits}


def some_ids(count: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(128), k=count)
