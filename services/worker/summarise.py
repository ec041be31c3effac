"""Summaries of a source, chapter by chapter; what is there already is not made again."""

from dataclasses import asdict
from typing import Any

from services import agent, errors
from services.agent.types import Quote, SourceView, Summary
from services.ingest.types import Chapter
from services.library import jobs as job_rows
from services.library import summaries
from services.library import tables as rows
from services.worker import views
from services.worker.engine import patiently
from services.worker.run import Lost, Run

MOST_CHAPTERS = 300
FEW = 3  # with fewer chapters than this at the top, the level below is taken too
MOST_FILES = 20
PROSE = (".md", ".rst", ".txt", ".adoc")


def summarise(run: Run, source_id: str) -> dict[str, Any]:
    try:
        with run.tools.database.read() as db:
            view = views.load(db, run.tenant, source_id)
            done = {row.chapter: _summary(row) for row in summaries.listed(db, run.tenant, source_id)}
    except errors.NotFound:
        raise Lost(source_id) from None
    wanted = chapters_of(view)
    for n, chapter in enumerate(wanted):
        progress = {"unit": "chapters", "done": n, "total": len(wanted), "title": view.outline[chapter].title}
        run.report("summarising", progress, force=True)
        if chapter not in done:
            done[chapter] = _chapter(run, view, chapter)
            _store(run, source_id, done[chapter])
    _store(run, source_id, agent.summarise_whole(run.model, view, [done[chapter] for chapter in wanted]))
    return {"href": f"/v1/{'repositories' if view.kind == 'repository' else 'documents'}/{source_id}/summaries"}


def chapters_of(view: SourceView) -> list[int]:
    """Of a document its chapters; of a repository its prose, or else its first files."""
    if view.kind == "repository":
        prose = [n for n, entry in enumerate(view.outline) if (entry.path or "").lower().endswith(PROSE)]
        return (prose or list(range(len(view.outline))))[:MOST_FILES]
    top = _upto(view.outline, 1)
    return (top if len(top) >= FEW else _upto(view.outline, 2))[:MOST_CHAPTERS]


def _upto(outline: list[Chapter], level: int) -> list[int]:
    return [n for n, entry in enumerate(outline) if entry.level <= level]


def _chapter(run: Run, view: SourceView, chapter: int) -> Summary:
    return patiently(
        lambda: agent.summarise_chapter(run.model, view, chapter),
        run.settings.engine_patience_seconds,
        lambda: run.enter("waiting for the engine"),
        run.check,
    )


def _store(run: Run, source_id: str, made: Summary) -> None:
    quotes = [asdict(quote) for quote in made.quotes]
    with run.write() as db:
        summaries.store(db, run.tenant, source_id, made.chapter, made.title, made.text, quotes, made.method)
        job_rows.got_on(db, run.job.id, run.job.attempt)


def _summary(row: rows.Summary) -> Summary:
    return Summary(row.title, row.text, [_quote(quote) for quote in row.quotes], row.method, row.chapter)


def _quote(stored: dict[str, Any]) -> Quote:
    """JSON's lists become the tuples they were."""
    plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()}
    return Quote(**plain)
