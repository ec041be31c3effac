"""The model as the agent sees it: the client's methods it calls, prompt parts, and what was said.

`services.inference.client.InferenceClient` fits `Model`; so does the twin in tests/agent.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from services.inference.pb.inference_pb2 import Part


class Model(Protocol):
    def describe(self) -> Any: ...
    def describe_session(self, session_id: str) -> Any: ...
    def open_session(self, session_id: str) -> Any: ...
    def delete_session(self, session_id: str) -> Any: ...
    def fork_session(self, session_id: str, new_id: str, bookmark: str = "") -> Any: ...
    def rewind_session(self, session_id: str, bookmark: str) -> Any: ...
    def read(self, session_id: str, parts: Iterable[Part], *, bookmark: str = "", segment: str = "",
             expected_digest: str = "", timeout: float | None = None) -> Iterator[Any]: ...  # fmt: skip
    def generate(self, session_id: str, prompt: list[Part], *, keep: bool = False, bookmark: str = "",
                 forced: Sequence[Part] = (), timeout: float | None = None, **sampling: Any) -> Iterator[Any]: ...  # fmt: skip
    def score(self, session_id: str, prompt: list[Part], continuation: list[Part]) -> Any: ...


def text(words: str) -> Part:
    return Part(text=words)


def special(name: str) -> Part:
    return Part(special=name)


@dataclass
class Said:
    """One generation, taken apart: the stretches between <|quote|> and <|/quote|>, or none."""

    quotes: list[str] = field(default_factory=list)
    none: bool = False
    logprobs: list[float] = field(default_factory=list)
    usage: dict[str, int] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)


COUNTS = ("prompt_tokens", "read_tokens", "resumed_tokens", "completion_tokens")
TIMES = ("restore_ms", "read_ms", "decode_ms", "first_token_ms")


def listen(chunks: Iterable[Any], inside: bool = False) -> Said:
    """`inside`: the quote was opened by force, whether or not the engine echoes it."""
    said, words = Said(), [""] if inside else []
    for chunk in chunks:
        said.logprobs += chunk.logprobs
        if chunk.text and words:
            words[-1] += chunk.text
        if chunk.special == "quote" and words != [""]:
            words.append("")
        elif chunk.special == "none":
            said.none = True
        if chunk.finish_reason:
            said.usage = {name: getattr(chunk.usage, name) for name in COUNTS}
            said.timing = {name: getattr(chunk.usage, name) for name in TIMES}
    said.quotes = [w for w in words if w.strip()]
    return said
