"""Cursor pagination: newest first, the cursor is the last id of the page before."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Session

from services.errors import InvalidInput

Row = TypeVar("Row")


@dataclass(frozen=True)
class Page(Generic[Row]):
    data: list[Row]
    has_more: bool
    next_cursor: str | None


def newest_first(db: Session, table: Any, query: sa.Select[Any], limit: int, after: str | None) -> Page[Any]:
    """A page of `query` (already restricted to a tenant), older than the row named `after`."""
    created: InstrumentedAttribute[Any] = table.created_at
    if after:
        stood = db.execute(query.where(table.id == after)).scalar_one_or_none()
        if stood is None:
            raise InvalidInput(f"The cursor {after!r} names nothing in this list.", code="unknown_cursor")
        query = query.where(sa.tuple_(created, table.id) < sa.tuple_(sa.literal(stood.created_at, created.type), after))
    rows = list(db.scalars(query.order_by(created.desc(), table.id.desc()).limit(limit + 1)))
    more = len(rows) > limit
    return Page(rows[:limit], more, rows[limit - 1].id if more else None)
