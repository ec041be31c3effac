"""Library rows to what the agent reads from. Kept for a while: a question needs the whole text of its source."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from services.agent.types import SourceView
from services.ingest.types import Block, Chapter, File, Symbol
from services.library import sources
from services.library import tables as rows

KEEP = 4
T = TypeVar("T")
_kept: OrderedDict[tuple[str, str], SourceView] = OrderedDict()


def load(db: Session, tenant: str, source_id: str) -> SourceView:
    """With `engine_session` set when its reading is complete."""
    source = sources.get(db, tenant, source_id)
    key = (source.id, source.updated_at.isoformat())
    if key not in _kept:
        _kept[key] = _build(db, tenant, source)
        while len(_kept) > KEEP:
            _kept.popitem(last=False)
    _kept.move_to_end(key)
    return _kept[key]


def _build(db: Session, tenant: str, source: rows.Source) -> SourceView:
    blocks = [_block(row) for row in sources.block_rows(db, tenant, source.id)]
    return SourceView(
        id=source.id,
        kind=source.kind,
        title=source.title,
        text="".join(block.text for block in blocks),
        blocks=blocks,
        outline=_made(Chapter, source.outline),
        files=_made(File, source.files),
        symbols=[_symbol(row) for row in sources.symbols(db, tenant, source.id)],
        engine_session=sources.engine_session(source.id) if source.reading_id else None,
    )


def _block(row: Any) -> Block:
    char, line = (row.char_start, row.char_end), (row.line_start, row.line_end)
    return Block(row.ordinal, row.kind, row.text, char, line, row.page, row.path, row.chapter)


def _symbol(row: rows.Symbol) -> Symbol:
    char, line = (row.char_start, row.char_end), (row.line_start, row.line_end)
    return Symbol(row.name, row.kind, row.path, line, char, row.signature, row.parent)


def _made(kind: type[T], entries: Sequence[dict[str, Any]]) -> list[T]:
    """JSON's lists become the tuples they were."""
    return [kind(**{name: _tuple(value) for name, value in entry.items()}) for entry in entries]


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
