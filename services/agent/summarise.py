from collections.abc import Sequence

from services.agent.model import Model
from services.agent.types import SourceView, Summary


def summarise_chapter(model: Model, view: SourceView, chapter: int) -> Summary:
    raise NotImplementedError


def summarise_whole(model: Model, view: SourceView, chapters: Sequence[Summary]) -> Summary:
    raise NotImplementedError
