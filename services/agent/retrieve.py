from collections.abc import Sequence

from services.agent.types import Hit, SourceView


def retrieve(views: Sequence[SourceView], query: str, limit: int = 5) -> list[Hit]:
    raise NotImplementedError
