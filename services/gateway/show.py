"""Rows to wire schemas."""

from collections.abc import Callable
from typing import Any

from services.gateway import schemas as out
from services.jobs import QUEUE_OF, Kinds
from services.library.tables import Block, ChatSession, Job, Reading, Source, Summary, Symbol, Turn
from services.library.tables import Quote as QuoteRow


def nobody(source_id: str) -> str | None:
    """Titles that nobody looks up."""
    return None


SUBJECT_TYPES = {"doc": "document", "rep": "repository", "msg": "message"}


def source(
    row: Source, reading: Reading | None = None, title_of: Callable[[str], str | None] = nobody, *, brief: bool = False
) -> out.SourceOut:
    """`brief` (in lists) leaves out a repository's outline: it has an entry a file."""
    left_out = {"outline"} if brief and row.kind == "repository" else set()
    names = out.SourceOut.model_fields.keys() - left_out - {"reading", "plan"}
    plain = {name: getattr(row, name) for name in names}
    return out.SourceOut.model_validate({**plain, "plan": plan(row.plan, title_of), "reading": reading})


def plan(stored: dict[str, Any] | None, title_of: Callable[[str], str | None]) -> dict[str, Any] | None:
    """With the title of the source that it goes on from, when that is still there."""
    if not stored or not stored["from"] or not stored["from"]["source_id"]:
        return stored
    return {**stored, "from": {**stored["from"], "title": title_of(stored["from"]["source_id"])}}


def symbol(row: Symbol) -> out.SymbolOut:
    plain = {name: getattr(row, name) for name in ("name", "kind", "path", "signature", "parent")}
    return out.SymbolOut(**plain, line=[row.line_start, row.line_end], char=[row.char_start, row.char_end])


def summary(row: Summary) -> out.SummaryOut:
    return out.SummaryOut.model_validate(row)


def summaries(rows: list[Summary], job: Job | None) -> out.SummariesOut:
    status = "none" if job is None else {"succeeded": "ready"}.get(job.status, job.status)
    shown = [summary(row) for row in rows]
    return out.SummariesOut(
        status=status,
        job_id=job.id if job else None,
        error=job.error if job else None,  # type: ignore[arg-type]
        whole=next((one for one in shown if one.chapter is None), None),
        chapters=[one for one in shown if one.chapter is not None],
    )


def session(row: ChatSession) -> out.SessionOut:
    names = out.SessionOut.model_fields.keys() - {"source_ids"}
    source_ids = [link.source_id for link in row.sources]
    return out.SessionOut(**{name: getattr(row, name) for name in names}, source_ids=source_ids)


def message(row: Turn) -> out.MessageOut:
    names = out.MessageOut.model_fields.keys() - {"quotes", "head"}
    plain = {name: getattr(row, name) for name in names}
    return out.MessageOut(**plain, quotes=[quote(q) for q in row.quotes], head=row.head_after or row.head_before)


def quote(row: QuoteRow) -> out.QuoteOut:
    return out.QuoteOut.model_validate(row)


def job(row: Job, waiting_before: int | None = None) -> out.JobOut:
    names = out.JobOut.model_fields.keys() - {"queue", "subject", "status"}
    plain: dict[str, Any] = {name: getattr(row, name) for name in names}
    cancelling = row.cancel_requested_at is not None and row.status in ("queued", "running")
    queue = out.QueueOut(name=QUEUE_OF[Kinds(row.kind)].value, position=waiting_before or 0)
    return out.JobOut(
        **plain,
        status="cancelling" if cancelling else row.status,
        queue=queue if row.status == "queued" else None,
        subject=out.Subject(type=SUBJECT_TYPES.get(row.subject[:3], "source"), id=row.subject),
    )


def hit(source_id: str, row: Block, score: float) -> out.SearchHit:
    plain = {name: getattr(row, name) for name in ("text", "page", "path", "chapter")}
    line, char = [row.line_start, row.line_end], [row.char_start, row.char_end]
    return out.SearchHit(source_id=source_id, block=row.ordinal, score=score, line=line, char=char, **plain)
