"""The model as the agent sees it: the client's methods it calls, prompt parts, and what was said.

`services.inference.client.InferenceClient` fits `Model`; so does the twin in tests/agent.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Protocol

from services.inference.pb.inference_pb2 import Copy, Part, Stretch


class Model(Protocol):
    def describe(self) -> Any: ...
    def count_tokens(self, parts: Iterable[Part]) -> int: ...
    def describe_session(self, session_id: str) -> Any: ...
    def open_session(self, session_id: str) -> Any: ...
    def delete_session(self, session_id: str, later: bool = False) -> Any: ...
    def fork_session(self, session_id: str, new_session_id: str, bookmark: str = "") -> Any: ...
    def read(self, session_id: str, parts: Iterable[Part], *, bookmark: str = "", segment: str = "",
             expected_digest: str = "", timeout: float | None = None) -> Any: ...  # fmt: skip
    def generate(self, session_id: str, prompt: Iterable[Part], *, keep: bool = False, bookmark: str = "",
                 forced: Iterable[Part] = (), expected_digest: str = "", timeout: float | None = 600.0,
                 **sampling: Any) -> Any: ...  # fmt: skip


def text(words: str) -> Part:
    return Part(text=words)


def special(name: str) -> Part:
    return Part(special=name)


@dataclass(frozen=True)
class Places:
    """Where a quote stands, nearest to the evidence first; `count` of all places, of which these are the first."""

    stretches: Sequence[Stretch] = ()
    count: int = 0


@dataclass
class Said:
    """One generation, taken apart: the stretches between `<|quote|>` and `<|/quote|>`, or none.

    `places` and `logprobs` have one for each of the quotes: an empty one when nothing held the quote to a source, or
    nobody asked. Natural logarithms, of each token and of the one that closes the quote.
    """

    quotes: list[str] = field(default_factory=list)
    places: list[Places] = field(default_factory=list)
    logprobs: list[list[float]] = field(default_factory=list)
    odds: float = 0.0  # log odds that the answer begins with a quote
    none: bool = False
    usage: dict[str, int] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)


COUNTS = ("prompt_tokens", "read_tokens", "resumed_tokens", "completion_tokens")
TIMES = ("restore_ms", "read_ms", "decode_ms", "first_token_ms")


MARKS = {"quote": "“", "/quote": "”"}  # how specials are shown while the model speaks


def unheard(words: str) -> None:
    """For those who wait until all is said."""


def say(
    model: Model,
    session_id: str,
    prompt: Sequence[Part],
    max_tokens: int,
    copy: Copy | None = None,
    heard: Callable[[str], None] = unheard,
) -> Said:
    """What the model says to the prompt, most likely first; the session stays as it is.

    `session_id` "": said from the prompt alone. `copy` holds quotes to a source. `heard` is told each piece at once,
    quotation marks included.
    """
    with closing(model.generate(session_id, list(prompt), temperature=0.0, max_tokens=max_tokens, copy=copy)) as stream:
        return listen(stream, heard)


def quoting(model: Model, session_id: str, prompt: Sequence[Part], max_tokens: int, copy: Copy | None) -> Any:
    """The stream, for `listen`, of an answer that begins with a quote whether the model would or not.

    How likely it would have is told in `odds`; it is said while the caller does other things.
    """
    opening = [special("quote")]
    return model.generate(
        session_id, list(prompt), forced=opening, temperature=0.0, max_tokens=max_tokens, logprobs=True, copy=copy
    )


def listen(chunks: Iterable[Any], heard: Callable[[str], None] = unheard) -> Said:
    said, words, inside, places, likely = Said(), list[str](), False, list[Places](), list[list[float]]()
    for chunk in chunks:
        if piece := MARKS.get(chunk.special, chunk.text):
            heard(piece)
        if inside:
            words[-1] += chunk.text
            likely[-1] += chunk.logprobs
        if chunk.special == "quote":
            said.odds = said.odds if words or not len(chunk.logprobs) else log_odds(chunk.logprobs[-1])
            words.append("")
            likely.append([])
        inside = (inside or chunk.special == "quote") and chunk.special != "/quote"
        said.none |= chunk.special == "none"
        if chunk.finish_reason:
            measured(said, chunk.usage)
            places = [Places(quote.occurrences, quote.count) for quote in chunk.quotes]
    places += [Places()] * (len(words) - len(places))
    told = [n for n, w in enumerate(words) if w.strip()]
    said.quotes, said.places = [words[n] for n in told], [places[n] for n in told]
    said.logprobs = [likely[n] for n in told]
    return said


def log_odds(logprob: float) -> float:
    """Of what has this log-probability; within 20 of even, where a float of 32 bits ends."""
    against = -math.expm1(min(logprob, -1e-9))
    return max(-20.0, min(20.0, logprob - math.log(against)))


def measured(said: Said, usage: Any) -> Said:
    said.usage = {name: int(getattr(usage, name)) for name in COUNTS}
    said.timing = {name: float(getattr(usage, name)) for name in TIMES}
    return said
