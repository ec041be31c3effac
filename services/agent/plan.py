"""What reading a source will cost, asked before it begins: how much of it somebody of this tenant has read already."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from services.agent.reading import parts_of
from services.agent.types import SourceView
from services.inference.pb.inference_pb2 import Part
from services.ingest.segments import segments


class Planner(Protocol):
    def plan(self, session_id: str, segments: Iterable[Iterable[Part]]) -> Any: ...


@dataclass(frozen=True)
class Plan:
    """Tokens. `known_tokens` of them, from the first on, are taken over; `from_session` read them."""

    tokens: int
    known_tokens: int
    known_segments: int
    segments: int
    from_session: str = ""
    from_bookmark: str = ""
    after: str | None = None  # title of the last segment that is known whole
    seconds: float | None = None  # for the rest; None: the engine does not know its speed yet

    @property
    def to_read(self) -> int:
        return self.tokens - self.known_tokens


def plan_reading(model: Planner, view: SourceView) -> Plan:
    """For a reading from the beginning; moves nothing in the engine."""
    todo = segments(view)  # type: ignore[arg-type]  # it looks at outline and blocks only

    reply = model.plan("", (parts_of(view, segment) for segment in todo))
    known = int(reply.known_segments)
    return Plan(
        tokens=int(reply.tokens),
        known_tokens=int(reply.known_tokens),
        known_segments=known,
        segments=len(todo),
        from_session=reply.from_session,
        from_bookmark=reply.from_bookmark,
        after=todo[known - 1].title if known else None,
        seconds=round(reply.seconds, 1) or None,
    )
