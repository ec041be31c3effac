"""Summaries of chapters and of the whole."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.library import sources
from services.library.ids import new_id
from services.library.tables import Summary


def listed(db: Session, tenant: str, source_id: str) -> list[Summary]:
    """Chapters in order; the whole, if it is there, first."""
    sources.get(db, tenant, source_id)
    query = sa.select(Summary).where(Summary.source_id == source_id)
    return sorted(db.scalars(query), key=lambda summary: -1 if summary.chapter is None else summary.chapter)


def store(
    db: Session,
    tenant: str,
    source_id: str,
    chapter: int | None,
    title: str,
    text: str,
    quotes: Sequence[Mapping[str, Any]],
    method: str,
) -> Summary:
    """Instead of the one that was there, so running it twice leaves one."""
    sources.get(db, tenant, source_id)
    db.execute(
        sa.delete(Summary).where(
            Summary.source_id == source_id, Summary.chapter.is_(None) if chapter is None else Summary.chapter == chapter
        )
    )
    summary = Summary(id=new_id("sum"), source_id=source_id, chapter=chapter, title=title, text=text, method=method)
    summary.quotes = [dict(quote) for quote in quotes]
    db.add(summary)
    db.flush()
    return summary


def clear(db: Session, tenant: str, source_id: str) -> None:
    sources.get(db, tenant, source_id)
    db.execute(sa.delete(Summary).where(Summary.source_id == source_id))
