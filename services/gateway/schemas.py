"""What goes over the wire: one schema per direction. Tables are not wire schemas."""

from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from services.gateway.deps import Clean
from services.gateway.problems import Problem

T = TypeVar("T")
Span = Annotated[list[int], Field(min_length=2, max_length=2, description="[from, to)")]
Lines = Annotated[list[int], Field(min_length=2, max_length=2, description="First and last line, from 1")]
Name = Annotated[Clean, StringConstraints(strip_whitespace=True, min_length=1, max_length=300)]
Words = Annotated[Clean, StringConstraints(strip_whitespace=True, min_length=1, max_length=8000)]


class Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Page(Out, Generic[T]):
    """A page of a list, newest first."""

    data: list[T]
    has_more: bool
    next_cursor: str | None = None


class ChapterOut(Out):
    title: str
    level: int
    char: Span
    line: Lines
    page: int | None = None
    path: str | None = None


class FileOut(Out):
    path: str
    language: str | None = None
    char: Span
    lines: int
    sha256: str


class FileText(FileOut):
    text: str


class PlanFrom(Out):
    """Whose reading is taken over. `source_id` is null when it is a conversation's."""

    source_id: str | None = None
    title: str | None = None
    bookmark: str | None = None


class PlanOut(Out):
    """What reading was expected to cost before it began, in tokens."""

    tokens: int
    known_tokens: int = Field(description="Read before, in this or another source: taken over")
    to_read: int
    segments: int
    known_segments: int
    after: str | None = Field(None, description="The last chapter or file that is known whole")
    from_: PlanFrom | None = Field(None, alias="from", description="Whose reading that is")
    seconds: float | None = Field(None, description="For the rest; null: the engine does not know its speed yet")


class ReadingOut(Out):
    """What reading did cost."""

    position: int = Field(description="Tokens read")
    shared_tokens: int | None = Field(None, description="Taken over from other readings")
    read_tokens: int | None = Field(None, description="Computed")
    segments_done: int
    bytes: int
    seconds: float


class SourceOut(Out):
    """A document or a repository. `status`: queued, reading, ready, failed or cancelled."""

    id: str
    kind: str
    status: str
    title: str
    filename: str | None = None
    media_type: str | None = None
    bytes: int = 0
    sha256: str | None = None
    url: str | None = None
    revision: str | None = None
    tokens: int | None = None
    characters: int | None = None
    outline: list[ChapterOut] = []
    warnings: list[Any] = []
    error: Problem | None = None
    job_id: str | None = None
    reading_id: str | None = None
    previous: str | None = Field(None, description="The source that this is a newer version of")
    ref: str | None = Field(None, description="The branch or tag that was asked for")
    plan: PlanOut | None = None
    reading: ReadingOut | None = Field(None, description="Not in lists")
    created_at: datetime
    updated_at: datetime


class TextOut(Out):
    text: str
    from_: int = Field(serialization_alias="from")
    to: int
    characters: int


class SymbolOut(Out):
    name: str
    kind: str
    path: str
    line: Lines
    char: Span
    signature: str
    parent: str | None = None


class Listed(Out, Generic[T]):
    """A whole list."""

    data: list[T]


class QuoteOut(Out):
    """A piece of a source, letter for letter, with where it stands."""

    text: str
    source_id: str
    char: Span | None = None
    line: Lines | None = None
    page: int | None = None
    path: str | None = None
    chapter: int | None = None
    match: str = "exact"
    span: Span | None = Field(None, description="Where it stands in the answer's text")


class SummaryOut(Out):
    chapter: int | None = Field(None, description="Index into the outline; null: the whole")
    title: str
    text: str
    quotes: list[QuoteOut]
    method: str
    created_at: datetime


class SummariesOut(Out):
    """`status`: none, queued, running, ready, failed or cancelled. What is there already is shown meanwhile."""

    status: str
    job_id: str | None = None
    error: Problem | None = None
    whole: SummaryOut | None = None
    chapters: list[SummaryOut] = []


class RepositoryByUrl(BaseModel):
    url: Annotated[Clean, StringConstraints(pattern=r"^https://", max_length=500)]
    revision: Annotated[Clean, StringConstraints(pattern=r"^[\w./-]{1,200}$")] | None = None
    previous: Annotated[Clean, StringConstraints(max_length=100)] | None = None


class SessionNew(BaseModel):
    model_config = ConfigDict(json_schema_extra={"example": {"source_ids": ["doc_3vB…"], "title": "Evening reading"}})

    source_ids: Annotated[list[Clean], Field(min_length=1, max_length=16)]
    title: Name | None = None
    until_chapter: int | None = Field(
        None, ge=0, description="Of a single document: the session knows nothing of what comes after this chapter"
    )


class SessionChange(BaseModel):
    title: Name


class SessionOut(Out):
    """`head` is the id of the last message, or the session's own id before the first."""

    id: str
    title: str
    head: str
    source_ids: list[str]
    parent: str | None = None
    forked_at: str | None = None
    until: int | None = Field(None, description="It knows its one source up to this character")
    created_at: datetime
    updated_at: datetime


class MessageNew(BaseModel):
    model_config = ConfigDict(json_schema_extra={"example": {"content": "Who is Mr. Darcy's sister?"}})

    content: Words
    expected_head: Clean | None = Field(None, description="409 session_head_moved unless the session stands here")


class Usage(Out):
    model_config = ConfigDict(from_attributes=True, extra="allow")

    prompt_tokens: int = 0
    read_tokens: int = 0
    resumed_tokens: int = 0
    completion_tokens: int = 0


class MessageOut(Out):
    """A question and its answer. `status`: queued, running, succeeded, failed or cancelled."""

    id: str
    session_id: str
    status: str
    question: str
    answer: str | None = None
    quotes: list[QuoteOut] = []
    origin: str | None = Field(None, description="read: from the whole reading; retrieved: from passages only")
    answered: bool | None = Field(None, description="False: the text does not say")
    confirmed: bool | None = Field(None, description="False: retrieval found it, the model did not say so")
    usage: Usage | None = None
    timing: dict[str, Any] | None = None
    evidence: list[Any] | None = None
    head: str
    job_id: str | None = None
    error: Problem | None = None
    created_at: datetime


class BookmarkNew(BaseModel):
    name: Name


class BookmarkOut(Out):
    id: str
    name: str
    turn: int = Field(description="How many messages it covers")
    head: str
    created_at: datetime


class Fork(BaseModel):
    bookmark: Clean | None = Field(None, description="A bookmark's id or name, or a message's id; none: the head")
    title: Name | None = None


class Rewind(BaseModel):
    bookmark: Clean = Field(description="A bookmark's id or name, or a message's id, or the session's id: the start")


class SearchNew(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={"example": {"query": "truth universally acknowledged", "source_ids": ["doc_3vB…"]}}
    )

    query: Words
    source_ids: Annotated[list[Clean], Field(min_length=1, max_length=50)]
    limit: Annotated[int, Field(ge=1, le=100)] = 10


class SearchHit(Out):
    source_id: str
    block: int
    text: str
    char: Span
    line: Lines
    page: int | None = None
    path: str | None = None
    chapter: int | None = None
    score: float


class QueueOut(Out):
    name: str
    position: int


class Subject(Out):
    type: str
    id: str


class JobOut(Out):
    """`status`: queued, running, cancelling, succeeded, failed or cancelled."""

    id: str
    kind: str
    status: str
    phase: str | None = None
    progress: dict[str, Any] | None = None
    queue: QueueOut | None = None
    attempt: int
    subject: Subject
    result: dict[str, Any] | None = None
    error: Problem | None = None
    heartbeat_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


class TierOut(Out):
    """`name`: ring (the engine's host memory), redis or cold."""

    name: str
    blocks: int
    bytes: int
    limit_bytes: int | None = Field(None, description="null: none")


class UsageOut(Out):
    """What the caller's readings take."""

    readings: int = Field(description="Engine sessions: sources, conversations")
    cold_readings: int = Field(description="Of these, in the cold tier only")
    used_bytes: int = Field(description="Counts towards the quota: all tiers, a block once")
    quota_bytes: int | None = Field(None, description="null: none")
    tiers: list[TierOut]


class Check(Out):
    name: str
    ok: bool
    detail: str


class Ready(Out):
    """`status`: ready; degraded when the library works but questions would not; unready."""

    status: str
    checks: list[Check]


class ModelOut(Out):
    """What is served, and how full it is."""

    model: str
    fingerprint: str
    parameters: int
    context_tokens: int
    grid_tokens: int
    page_tokens: int
    page_bytes: int
    snapshot_bytes: int
    slots_total: int
    slots_free: int
    pages_total: int
    pages_free: int
    device: str
    special_tokens: list[str]
