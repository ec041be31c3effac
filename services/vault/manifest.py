"""The manifest: everything that a reading consists of, by name. Immutable, and named by the keyed hash of its bytes.

A manifest covers positions 0..P. It carries *rungs*: positions whose snapshot is kept; the last one stands at P. A
head, a bookmark or a fork is a *view* of a manifest: `cut` gives what is needed to stand at an earlier position.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from services.vault.sealing import Damaged, Ref

NOTHING = "00" * 32  # the rolling digest before the first token
FORMAT = 2
SPARE_RUNGS = 16  # a short reading keeps so many whatever their share of its bytes
RUNG_SHARE = 0.2  # of the pages' bytes, for all interior rungs together


@dataclass(frozen=True)
class Segment:
    """`tokens` were read of the ids in `log`, which may hold more: it is still being read, or was cut short."""

    tokens: int
    label: str
    log: tuple[Ref, ...]
    digest: str = ""  # the rolling digest at its end, when it was read to there


@dataclass(frozen=True)
class Rung:
    """A position that one can start from: the state's parts. `seconds` of computing led there from position 0."""

    position: int
    digest: str
    seconds: float
    parts: tuple[Ref, ...]

    @property
    def bytes(self) -> int:
        return sum(ref.size for ref in self.parts)

    @property
    def at(self) -> str:
        return f"{self.position} {self.digest}"


@dataclass(frozen=True)
class Layout:
    """What the bytes are. latents: (layers, width, dtype) of a token's row; tensors: (name, dtype, shape) of each."""

    latents: tuple[int, int, str]
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Manifest:
    fingerprint: str
    tokenizer: str
    position: int = 0
    digest: str = NOTHING  # the engine's rolling digest at `position`: it names the tokens and where segments ended
    page_tokens: int = 256
    layout: Layout | None = None
    segments: tuple[Segment, ...] = ()
    pages: tuple[Ref, ...] = ()
    rungs: tuple[Rung, ...] = ()
    format: int = FORMAT

    def refs(self) -> list[Ref]:
        logs = (ref for segment in self.segments for ref in segment.log)
        return [*logs, *self.pages, *(ref for rung in self.rungs for ref in rung.parts)]

    @property
    def stored_bytes(self) -> int:
        return sum({ref.name: ref.size for ref in self.refs()}.values())

    @property
    def seconds(self) -> float:
        return self.rungs[-1].seconds if self.rungs else 0.0

    def places(self) -> dict[str, int]:
        """Digest -> position, of every rung and of every segment's end: where a view can stand."""
        ends = itertools.accumulate(segment.tokens for segment in self.segments)
        found = {segment.digest: end for segment, end in zip(self.segments, ends, strict=True) if segment.digest}
        return found | {rung.digest: rung.position for rung in self.rungs}

    def whole_pages(self) -> tuple[Ref, ...]:
        """The pages that are full at `position`; what comes after them is written anew by the next save."""
        return tuple(p for p in self.pages if p.last - p.first == self.page_tokens and p.last <= self.position)

    def cut(self, position: int, digest: str) -> Manifest:
        """What stands at an earlier position. The last rung may lie below it: the tokens between are in the log."""
        if (position, digest) == (self.position, self.digest):
            return self
        return replace(
            self,
            position=position,
            digest=digest,
            segments=tuple(_segments_until(self.segments, position)),
            pages=tuple(page for page in self.pages if page.first < position),
            rungs=tuple(rung for rung in self.rungs if rung.position <= position),
        )

    def check(self) -> None:
        """Pages and segments must cover the position, and every rung must lie within it."""
        ends = [0, *(page.last for page in self.pages)]
        if [page.first for page in self.pages] != ends[:-1] or ends[-1] < self.position:
            raise Damaged("manifest", f"its pages do not cover 0..{self.position}", "manifest")
        if any(page.last - page.first != self.page_tokens for page in self.pages[:-1]):
            raise Damaged("manifest", "a page in the middle is short", "manifest")
        if sum(segment.tokens for segment in self.segments) != self.position:
            raise Damaged("manifest", f"its segments do not add up to {self.position}", "manifest")
        if any(rung.position > self.position for rung in self.rungs):
            raise Damaged("manifest", f"a rung lies behind {self.position}", "manifest")

    def to_bytes(self) -> bytes:
        plain: dict[str, Any] = dict(vars(self))
        plain["layout"] = vars(self.layout) if self.layout else None
        plain["segments"] = [[s.tokens, s.label, _rows(s.log), s.digest] for s in self.segments]
        plain["pages"] = _rows(self.pages)
        plain["rungs"] = [[r.position, r.digest, r.seconds, _rows(r.parts)] for r in self.rungs]
        return json.dumps(plain, separators=(",", ":"), sort_keys=True).encode()

    @staticmethod
    def from_bytes(data: bytes) -> Manifest:
        plain = json.loads(data)
        if plain["format"] != FORMAT:
            raise Damaged("manifest", f"format {plain['format']} is not known here", "manifest")
        plain["layout"] = _layout(plain["layout"]) if plain["layout"] else None
        plain["segments"] = tuple(Segment(n, label, _refs(rows), end) for n, label, rows, end in plain["segments"])
        plain["pages"] = _refs(plain["pages"])
        plain["rungs"] = tuple(Rung(p, d, s, _refs(rows)) for p, d, s, rows in plain["rungs"])
        return Manifest(**plain)


def _segments_until(segments: Iterable[Segment], position: int) -> Iterable[Segment]:
    for segment in segments:
        if position <= 0:
            return
        yield segment if segment.tokens <= position else replace(segment, tokens=position, digest="")
        position -= segment.tokens


def thinned(rungs: tuple[Rung, ...], pages_bytes: int, pinned: frozenset[int]) -> tuple[Rung, ...]:
    """Drops interior rungs until their bytes are a small share of the pages', first those that cost least to lose.

    What losing one costs is the computing between its neighbours. The last two and pinned ones stay.
    """
    kept = list(rungs)
    room = max(RUNG_SHARE * pages_bytes, SPARE_RUNGS * max((rung.bytes for rung in kept), default=0))
    while sum(rung.bytes for rung in kept) > room:
        gaps = [(_gap(kept, n), n) for n in range(len(kept) - 2) if kept[n].position not in pinned]
        if not gaps:
            break
        del kept[min(gaps)[1]]
    return tuple(kept)


def _gap(rungs: list[Rung], n: int) -> float:
    return rungs[n + 1].seconds - (rungs[n - 1].seconds if n else 0.0)


def _layout(plain: dict[str, Any]) -> Layout:
    layers, width, dtype = plain["latents"]
    return Layout((layers, width, dtype), tuple((name, kind, tuple(shape)) for name, kind, shape in plain["tensors"]))


def _rows(refs: Iterable[Ref]) -> list[list[Any]]:
    return [[r.kind, r.name, r.first, r.last, r.size] for r in refs]


def _refs(rows: Iterable[list[Any]]) -> tuple[Ref, ...]:
    return tuple(Ref(*row) for row in rows)
