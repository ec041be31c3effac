"""What the engine is asked to do with one sequence, and what it reports back."""

from dataclasses import dataclass
from typing import Literal

from engine.copying import Copier
from engine.sampler import SamplingParams

Reason = Literal["read", "stop", "length", "aborted", "error"]


@dataclass
class Read:
    """Feed one segment."""

    id: int
    sequence: int
    ids: list[int]
    score: bool
    done: int = 0


@dataclass
class Generate:
    """Decode from the sequence's last logits. The first tokens may be forced; they count towards max_tokens."""

    id: int
    sequence: int
    params: SamplingParams
    forced: list[int]
    copier: Copier | None = None
    count: int = 0  # tokens decoded


Request = Read | Generate


@dataclass(frozen=True)
class Progress:
    request: int
    done: int
    total: int


@dataclass(frozen=True)
class Token:
    """A decoded token; or, of a scored reading, one of its ids with the probability it had.

    Inside a quote that is copied, probabilities are those among the ids that were allowed.
    """

    request: int
    id: int
    logprob: float
    likeliest: bool  # no other token had a higher probability


@dataclass(frozen=True)
class Done:
    """The last event of a request. After ``error`` its sequence is closed; else it stands at position and digest."""

    request: int
    reason: Reason
    position: int
    digest: bytes
    error: str | None = None


Event = Progress | Token | Done
