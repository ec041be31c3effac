from collections.abc import Sequence

from services.agent.model import Model
from services.agent.types import Emit, ReadingResult, SourceView, silent


def read_source(model: Model, view: SourceView, session_id: str, emit: Emit = silent, start: int = 0) -> ReadingResult:
    raise NotImplementedError


def open_session(model: Model, views: Sequence[SourceView], session_id: str, emit: Emit = silent) -> None:
    raise NotImplementedError
