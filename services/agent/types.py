"""What the agent is given and what it hands back. Every `char` is a span [a, b) of the view's text."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from services.ingest.types import Block, Chapter, File, Span, Symbol

Emit = Callable[[str, dict[str, Any]], None]  # (event, data)
Match = Literal["exact", "normalised", "none"]
Origin = Literal["read", "retrieved"]


def silent(event: str, data: dict[str, Any]) -> None:
    """An Emit that tells nobody."""


@dataclass(eq=False)  # two views are the same only if they are one object: what is computed from one is kept by it
class SourceView:
    """A source as the agent sees it; the worker builds one from the library's rows."""

    id: str
    kind: str  # "document" | "repository"
    title: str
    text: str
    blocks: list[Block]
    outline: list[Chapter] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    symbols: list[Symbol] = field(default_factory=list)
    engine_session: str | None = None  # holds the whole of it; None when it was too large to read

    @cached_property
    def starts(self) -> list[int]:
        """Where each block begins, for bisect."""
        return [block.char[0] for block in self.blocks]

    def upto(self, char: int) -> "SourceView":
        """The source as a session knows it that stands at the bookmark `{id}@{char}`: nothing behind it exists."""
        if char >= len(self.text):
            return self
        keep = lambda rows: [row for row in rows if row.char[1] <= char]  # noqa: E731
        begun = [c for c in self.outline if c.char[0] < char]
        outline = [replace(c, char=(c.char[0], min(c.char[1], char))) for c in begun]
        return replace(
            self,
            text=self.text[:char],
            blocks=keep(self.blocks),
            outline=outline,
            files=keep(self.files),
            symbols=keep(self.symbols),
        )


@dataclass(frozen=True)
class Quote:
    """A stretch of a source, letter for letter: `text == view.text[char[0]:char[1]]`.

    With match "none" nothing of the source is carried: `text` is empty and `char` is None.
    """

    text: str
    source_id: str
    char: Span | None
    line: Span | None = None
    page: int | None = None
    path: str | None = None
    chapter: int | None = None  # index into the outline
    match: Match = "exact"
    span: Span | None = None  # where it stands in the answer's or summary's text


@dataclass(frozen=True)
class Hit:
    """A passage that retrieval points at; `block` may be several adjacent blocks in one."""

    block: Block
    source_id: str
    score: float


@dataclass(frozen=True)
class Answer:
    text: str
    quotes: list[Quote]
    origin: Origin
    usage: dict[str, int]
    timing: dict[str, float]  # milliseconds
    evidence: list[Hit]  # passages looked at; not quotes
    answered: bool = True  # False: the text does not say
    confirmed: bool = True  # False: retrieval found it, the model did not say so
    digest: str = ""  # the engine session's head after this turn; empty when nothing was kept


@dataclass(frozen=True)
class Summary:
    title: str
    text: str  # the quotes, one after another
    quotes: list[Quote]
    method: str  # "model" | "model+lexical" | "lexical"
    chapter: int | None = None  # index into the outline; None: the whole source


@dataclass(frozen=True)
class ReadingResult:
    session_id: str
    digest: str
    position: int  # tokens
    segments_done: int
    segments_total: int
    seconds: float
    shared_tokens: int = 0  # taken over from another reading, since this call began
    read_tokens: int = 0  # computed, since this call began
    saved_bytes: int = 0
    fingerprint: str = ""
