"""Quotes that the engine held to a source: what it may quote, and where in the text stands what it quoted.

The engine counts characters of segments and of prompt parts (pb.Stretch); a segment is one that reading.py made of a
view. Whatever comes of that is compared with the text, letter by letter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from services.agent.model import Places
from services.agent.reading import parts_of
from services.agent.types import SourceView
from services.inference.pb.inference_pb2 import Copy, Part, Stretch
from services.ingest.segments import segments
from services.ingest.types import Span

MARKS = ("doc", "file")  # specials before a text that is shown


@dataclass(frozen=True)
class Shown:
    """A stretch of a view as the model sees it, behind ``before`` characters of another kind: a file's path."""

    view: SourceView
    char: Span
    before: int = 0

    def span(self, place: Stretch) -> Span | None:
        """Where a place in it stands in the view; None when it reaches out of it."""
        at = self.char[0] - self.before
        a, b = at + int(place.start), at + int(place.end)
        return (a, b) if self.char[0] <= a and b <= self.char[1] else None

    def stretch(self, number: int, char: Span) -> Stretch | None:
        """The other way round: what of a view's span lies in this segment of the session."""
        a, b = max(char[0], self.char[0]), min(char[1], self.char[1])
        at = self.char[0] - self.before
        return Stretch(number=number, start=a - at, end=b - at) if a < b else None


@dataclass(frozen=True)
class Quotable:
    """What a question may be answered from: segments of the session, in their order; parts of the prompt, by number."""

    segments: Sequence[Shown] = ()
    parts: Mapping[int, Shown] = field(default_factory=dict)

    def copy(self, near: Sequence[tuple[SourceView, Span]] = ()) -> Copy | None:
        """The request's field; None when there is nothing to quote from."""
        evidence = [s.stretch(n, char) for n, s in enumerate(self.segments) for view, char in near if s.view is view]
        if not any(s.char[0] < s.char[1] for s in (*self.segments, *self.parts.values())):
            return None
        return Copy(session=bool(self.segments), parts=self.parts, near=filter(None, evidence))

    def spans(self, words: str, places: Places) -> list[tuple[SourceView, Span]]:
        """Where the words stand, as far as the engine's places say so and the letters agree."""
        found = []
        for place in places.stretches:
            shown = self._shown(place)
            span = shown.span(place) if shown else None
            if shown and span and shown.view.text[slice(*span)] == words:
                found.append((shown.view, span))
        return found

    def _shown(self, place: Stretch) -> Shown | None:
        if place.prompt:
            return self.parts.get(place.number)
        return self.segments[place.number] if place.number < len(self.segments) else None


def in_session(views: Sequence[SourceView]) -> Quotable:
    """Of a session that has read these views, one after another."""
    return Quotable(segments=[shown for view in views if view.engine_session for shown in read_of(view)])


def in_prompt(prompt: Sequence[Part], shown: Sequence[Shown]) -> Quotable:
    """Of the passages of a prompt, in their order."""
    return Quotable(parts=dict(zip(numbers(prompt), shown, strict=False)))  # an empty passage is not shown


def numbers(prompt: Sequence[Part]) -> list[int]:
    """Which parts of a prompt are texts that are shown."""
    return [n for n, part in enumerate(prompt[1:], 1) if prompt[n - 1].special in MARKS and not part.special]


@lru_cache(maxsize=16)
def read_of(view: SourceView) -> tuple[Shown, ...]:
    """The segments that a view is read in."""
    pieces = segments(view)  # type: ignore[arg-type]  # it looks at outline and blocks only
    sizes = [len(parts_of(view, piece)[-1].text) for piece in pieces]
    return tuple(
        Shown(view, piece.char, size - (piece.char[1] - piece.char[0]))
        for piece, size in zip(pieces, sizes, strict=True)
    )
