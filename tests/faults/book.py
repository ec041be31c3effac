"""What a script knows of a tenant's sessions: where each one stands, or, after a fault, where it may stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from services.inference.pb import inference_pb2 as pb
from tests.faults.control import digest_of, position_of
from tests.faults.model import Segments


class Broken(Exception):
    """A promise was not kept. `kind`: lost, mixed, wrong, unclear, unnoticed, hang, refused."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


@dataclass(frozen=True)
class Standing:
    """A session: the segments it has read, and its bookmarks."""

    segments: Segments = ()
    marks: tuple[tuple[str, Segments], ...] = ()

    @property
    def position(self) -> int:
        return position_of(self.segments)

    def read(self, *segments: tuple[int, ...], mark: str = "") -> Standing:
        after = replace(self, segments=(*self.segments, *segments))
        return after.marked(mark) if mark else after

    def marked(self, name: str) -> Standing:
        return replace(self, marks=(*self.marks, (name, self.segments)))

    def rewound(self, name: str) -> Standing:
        return replace(self, segments=dict(self.marks)[name])

    def cut(self, position: int) -> Standing:
        """At a position: the last segment is cut short, or goes."""
        segments: list[tuple[int, ...]] = []
        for ids in self.segments:
            if position > 0:
                segments.append(ids[:position])
            position -= len(ids)
        return replace(self, segments=tuple(segments))

    def is_told_by(self, told: pb.Session) -> bool:
        marks = {mark.name: mark.head.digest for mark in told.bookmarks}
        return (
            told.head.digest == digest_of(self.segments)
            and told.head.position == self.position
            and marks == {name: digest_of(segments) for name, segments in self.marks}
        )


LATELY = 8  # calls of one session

MayBe = Standing | None  # None: there is no such session


@dataclass
class Book:
    """One tenant's sessions."""

    tenant: str
    possible: dict[str, list[MayBe]] = field(default_factory=dict)
    history: dict[str, list[MayBe]] = field(default_factory=dict)  # what was acknowledged, in order
    tried: set[str] = field(default_factory=set)  # digests of readings that were begun
    past: dict[str, str] = field(default_factory=dict)  # the same: digest -> session

    def sure(self) -> dict[str, Standing]:
        """The sessions of which we know where they stand."""
        return {
            name: standings[0]
            for name, standings in self.possible.items()
            if len(standings) == 1 and standings[0] is not None
        }

    def unsure(self) -> list[str]:
        return [name for name, standings in self.possible.items() if len(standings) > 1]

    @contextmanager
    def moving(self, session: str, after: Callable[[], MayBe]) -> Iterator[None]:
        """Around a call that moves `session` to `after()`: one that fails may have moved it, or not."""
        before = self.possible.get(session, [None])
        try:
            yield
        except BaseException:
            self.possible[session] = [*before, after()]
            raise
        self.stands(session, after())

    def stands(self, session: str, standing: MayBe) -> None:
        self.possible[session] = [standing]
        self.history.setdefault(session, [None]).append(standing)
        if standing is not None and standing.segments:
            self.past[digest_of(standing.segments)] = session

    def any_time(self) -> None:
        """Each session may stand where it ever stood: the store was set back."""
        self.possible = {session: list(dict.fromkeys(standings)) for session, standings in self.history.items()}

    def lately(self) -> None:
        """Each session may stand where it stood a few calls ago."""
        for session, standings in self.history.items():
            recent = [*self.possible[session], *reversed(standings[-LATELY:])]
            self.possible[session] = list(dict.fromkeys(recent))

    def settle(self, session: str, told: pb.Session | None) -> MayBe:
        """The one possible standing that the engine tells of; Broken when it is none of them."""
        possible = self.possible.get(session, [None])
        for standing in possible:
            if (told is None) if standing is None else (told is not None and standing.is_told_by(told)):
                self.stands(session, standing)
                return standing
        raise self._broken(session, told, possible)

    def _broken(self, session: str, told: pb.Session | None, possible: list[MayBe]) -> Broken:
        wanted = [_in_short(standing) for standing in possible]
        if told is None:
            return Broken("lost", f"{self.tenant}/{session} is gone; it should be {wanted}")
        position, digest = told.head.position, told.head.digest
        seen = f"{position}@{digest[:8]} marks {[(mark.name, mark.head.position) for mark in told.bookmarks]}"
        before = f", where {self.past[digest]} once stood" if digest in self.past else ""
        return Broken("lost", f"{self.tenant}/{session} stands at {seen}{before}; it should be {wanted}")


def _in_short(standing: MayBe) -> str:
    if standing is None:
        return "absent"
    marks = [(name, position_of(segments)) for name, segments in standing.marks]
    return f"{standing.position}@{digest_of(standing.segments)[:8]} marks {marks}"
