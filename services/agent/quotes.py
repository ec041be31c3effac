from collections.abc import Sequence

from services.agent.types import Quote, SourceView
from services.ingest.types import Span


def locate(said: str, view: SourceView, near: Sequence[Span] = ()) -> Quote:
    raise NotImplementedError
