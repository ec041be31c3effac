"""The model as the agent sees it: the client's methods it calls, prompt parts, and what was said.

`services.inference.client.InferenceClient` fits `Model`; so does the twin in tests/agent.
"""

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

    `places` has one for each of the quotes; an empty one when nothing held the quote to a source.
    """

    quotes: list[str] = field(default_factory=list)
    places: list[Places] = field(default_factory=list)
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


def listen(chunks: Iterable[Any], heard: Callable[[str], None] = unheard) -> Said:
    said, words, inside, places = Said(), list[str](), False, list[Places]()
    for chunk in chunks:
        if piece := MARKS.get(chunk.special, chunk.text):
            heard(piece)
        if inside and chunk.text:
            words[-1] += chunk.text
        if chunk.special == "quote":
            words.append("")
        inside = (inside or chunk.special == "quote") and chunk.special != "/quote"
        said.none |= chunk.special == "none"
        if chunk.finish_reason:
            measured(said, chunk.usage)
            places = [Places(quote.occurrences, quote.count) for quote in chunk.quotes]
    places += [Places()] * (len(words) - len(places))
    told = [(w, place) for w, place in zip(words, places, strict=True) if w.strip()]
    said.quotes, said.places = [w for w, _ in told], [place for _, place in told]
    return said


def measured(said: Said, usage: Any) -> Said:
    said.usage = {name: int(getattr(usage, name)) for name in COUNTS}
    said.timing = {name: float(getattr(usage, name)) for name in TIMES}
    return said
