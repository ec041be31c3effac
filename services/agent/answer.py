from collections.abc import Sequence

from services.agent.model import Model
from services.agent.types import Answer, Emit, SourceView, silent


def answer(model: Model, views: Sequence[SourceView], session_id: str, question: str, emit: Emit = silent, bookmark: str = "") -> Answer:
    raise NotImplementedError
