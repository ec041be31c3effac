"""Every table. Rows that belong to someone carry `tenant`; rows below them are reached through their owner only.

Relationships raise when touched unloaded, so a hidden query is a failing test.
"""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ForeignKey, Index, MetaData, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

Json = sa.JSON().with_variant(JSONB(), "postgresql")


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """Always aware and in UTC, also on SQLite, which keeps no zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012  SQLAlchemy reads it from the class
        datetime: UtcDateTime,
        dict[str, Any]: Json,
        list[Any]: Json,
        str: sa.Text,
        int: sa.BigInteger,
    }


class Timed:
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class Source(Timed, Base):
    """A document, or a repository pinned to a revision."""

    __tablename__ = "sources"
    __table_args__ = (Index("ix_sources_tenant_kind_created_at_id", "tenant", "kind", "created_at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    kind: Mapped[str]  # document | repository
    status: Mapped[str] = mapped_column(default="queued")  # queued | reading | ready | failed | cancelled
    title: Mapped[str]
    filename: Mapped[str | None]
    media_type: Mapped[str | None]
    sha256: Mapped[str | None] = mapped_column(index=True)
    bytes: Mapped[int] = mapped_column(default=0)
    url: Mapped[str | None]
    revision: Mapped[str | None]
    tokens: Mapped[int | None]
    characters: Mapped[int | None]
    outline: Mapped[list[Any]] = mapped_column(default=list)  # [{title, level, char, line, page, path}]
    files: Mapped[list[Any]] = mapped_column(default=list)  # [{path, language, char, lines, sha256}]
    warnings: Mapped[list[Any]] = mapped_column(default=list)
    error: Mapped[dict[str, Any] | None]
    reading_id: Mapped[str | None]
    job_id: Mapped[str | None]
    previous: Mapped[str | None]  # the source that this is a newer version of
    ref: Mapped[str | None]  # the branch or tag that was asked for; `revision` is the commit it stood at
    plan: Mapped[dict[str, Any] | None]  # what reading it was expected to cost, before it began


class Block(Base):
    """A paragraph or a piece of code. Joined in order, the blocks of a source are its text."""

    __tablename__ = "blocks"
    __table_args__ = (Index("ix_blocks_source_id_char_end", "source_id", "char_end"),)

    source_id: Mapped[str] = mapped_column(ForeignKey("sources.id", ondelete="CASCADE"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    text: Mapped[str]
    char_start: Mapped[int]
    char_end: Mapped[int]
    line_start: Mapped[int]
    line_end: Mapped[int]
    page: Mapped[int | None]
    path: Mapped[str | None]
    chapter: Mapped[int | None]


class Symbol(Base):
    __tablename__ = "symbols"
    __table_args__ = (Index("ix_symbols_source_id_name", "source_id", "name"),)

    source_id: Mapped[str] = mapped_column(ForeignKey("sources.id", ondelete="CASCADE"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    kind: Mapped[str]
    path: Mapped[str]
    line_start: Mapped[int]
    line_end: Mapped[int]
    char_start: Mapped[int]
    char_end: Mapped[int]
    signature: Mapped[str]
    parent: Mapped[str | None]


class Summary(Timed, Base):
    """Of one chapter, or of the whole when `chapter` is null."""

    __tablename__ = "summaries"
    __table_args__ = (UniqueConstraint("source_id", "chapter"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    source_id: Mapped[str] = mapped_column(ForeignKey("sources.id", ondelete="CASCADE"), index=True)
    chapter: Mapped[int | None]
    title: Mapped[str]
    text: Mapped[str]
    quotes: Mapped[list[Any]] = mapped_column(default=list)
    method: Mapped[str]


class Reading(Timed, Base):
    """How far the engine has read a source. `segments_done` is the count of saved segments."""

    __tablename__ = "readings"

    id: Mapped[str] = mapped_column(primary_key=True)
    source_id: Mapped[str] = mapped_column(ForeignKey("sources.id", ondelete="CASCADE"), unique=True)
    session_id: Mapped[str]  # in the engine
    fingerprint: Mapped[str | None]
    digest: Mapped[str | None]
    position: Mapped[int] = mapped_column(default=0)
    segments_done: Mapped[int] = mapped_column(default=0)
    bytes: Mapped[int] = mapped_column(default=0)
    seconds: Mapped[float] = mapped_column(default=0.0)
    shared_tokens: Mapped[int | None]  # taken over from other readings; None: read before this was counted
    read_tokens: Mapped[int | None]  # computed


class ChatSession(Timed, Base):
    """A conversation. `head` is the id of its last message, or its own id before the first one."""

    __tablename__ = "sessions"
    __table_args__ = (Index("ix_sessions_tenant_created_at_id", "tenant", "created_at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    engine_session_id: Mapped[str]
    title: Mapped[str]
    head: Mapped[str]
    parent: Mapped[str | None]  # the session it was forked from
    forked_at: Mapped[str | None]  # the head it was forked at
    until: Mapped[int | None]  # it knows its one source up to this character
    sources: Mapped[list["SessionSource"]] = relationship(
        lazy="raise", order_by="SessionSource.ordinal", passive_deletes="all"
    )


class SessionSource(Base):
    __tablename__ = "session_sources"

    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True)
    source_id: Mapped[str] = mapped_column(ForeignKey("sources.id", ondelete="CASCADE"), primary_key=True)
    ordinal: Mapped[int]


class Turn(Timed, Base):
    """A question and its answer. The chain of `head_before` from a session's head is its history."""

    __tablename__ = "turns"
    __table_args__ = (Index("ix_turns_session_id_ordinal", "session_id", "ordinal"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"))
    job_id: Mapped[str | None]
    status: Mapped[str] = mapped_column(default="queued")  # queued | running | succeeded | failed | cancelled
    ordinal: Mapped[int]
    question: Mapped[str]
    answer: Mapped[str | None]
    origin: Mapped[str | None]  # read | retrieved
    usage: Mapped[dict[str, Any] | None]
    timing: Mapped[dict[str, Any] | None]
    evidence: Mapped[list[Any] | None]
    answered: Mapped[bool | None]  # False: the text does not say
    confirmed: Mapped[bool | None]  # False: retrieval found it, the model did not say so
    error: Mapped[dict[str, Any] | None]
    head_before: Mapped[str]
    head_after: Mapped[str | None]
    engine_mark: Mapped[str | None]  # the engine's bookmark behind this turn
    quotes: Mapped[list["Quote"]] = relationship(lazy="raise", order_by="Quote.ordinal", passive_deletes="all")


class Quote(Base):
    """A piece of a source that an answer stands on."""

    __tablename__ = "quotes"

    turn_id: Mapped[str] = mapped_column(ForeignKey("turns.id", ondelete="CASCADE"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    source_id: Mapped[str]
    char: Mapped[list[Any] | None]
    line: Mapped[list[Any] | None]
    page: Mapped[int | None]
    path: Mapped[str | None]
    chapter: Mapped[int | None]
    match: Mapped[str]
    span: Mapped[list[Any] | None]


class Bookmark(Base):
    """A named point of a session: the head it had then."""

    __tablename__ = "bookmarks"
    __table_args__ = (UniqueConstraint("session_id", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"))
    name: Mapped[str]
    turn: Mapped[int]  # ordinal of the last turn it covers; 0: before the first
    head: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Job(Base):
    """Long work. The row is the truth; a message in a queue only says that it is there."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_tenant_created_at_id", "tenant", "created_at", "id"),
        Index("ix_jobs_status_heartbeat_at", "status", "heartbeat_at"),
        Index("ix_jobs_subject_kind", "subject", "kind"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    kind: Mapped[str]  # ingest | summarise | answer
    subject: Mapped[str]  # the id of what it works on
    status: Mapped[str] = mapped_column(default="queued")  # queued | running | succeeded | failed | cancelled
    phase: Mapped[str | None]
    progress: Mapped[dict[str, Any] | None]
    attempt: Mapped[int] = mapped_column(default=0)  # also the fencing token of whoever holds the claim
    losses: Mapped[int] = mapped_column(default=0)  # times it was given up since it last got on
    request_id: Mapped[str | None]
    error: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    cancel_requested_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]  # when a message was last put in the queue
    created_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Discarded(Base):
    """An engine session that must go. Written in the transaction that deletes its owner, removed when it is gone."""

    __tablename__ = "discarded"

    engine_session_id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(default=now)


class IdempotentRequest(Base):
    """A POST that carried an Idempotency-Key, and what it was answered."""

    __tablename__ = "idempotent_requests"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[str]
    status: Mapped[int | None]  # null while the first one is still running
    location: Mapped[str | None]
    body: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)
