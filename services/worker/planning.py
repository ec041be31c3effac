"""What reading a source will cost, shown before it begins."""

from typing import Any

from sqlalchemy.orm import Session

from services import agent, errors, log
from services.agent import Plan
from services.agent.types import SourceView
from services.library import sessions, sources
from services.library.tables import Source
from services.worker.reading import waiting
from services.worker.run import Run

logger = log.get_logger(__name__)

SOURCE_SESSION = "src-"


def planned(run: Run, source: Source, view: SourceView) -> int:
    """Tokens of the source; 0 when the engine makes no plan: that is no reason not to read."""
    if source.plan is not None:
        return int(source.plan["tokens"])
    run.enter("planning")
    plan = _ask(run, view)
    if plan is None:
        return 0
    with run.write() as db:
        shown = as_json(plan, source_of(db, run.tenant, plan.from_session))
        sources.get(db, run.tenant, source.id).plan = shown
    run.report(
        "planned", {"unit": "tokens", "done": plan.known_tokens, "total": plan.tokens, "plan": shown}, force=True
    )
    run.emit("plan", shown)
    counts = {name: shown[name] for name in ("tokens", "known_tokens", "to_read", "seconds")}
    logger.info("reading_planned", source=source.id, of=plan.from_session, bookmark=plan.from_bookmark, **counts)
    return plan.tokens


def _ask(run: Run, view: SourceView) -> Plan | None:
    try:
        plan: Plan = waiting(run, lambda: agent.plan_reading(run.model, view))
        return plan
    except (errors.Cancelled, errors.EngineUnavailable, errors.EngineFull):
        raise
    except errors.ShioriError as error:
        logger.warning("no_plan", source=view.id, code=error.code, detail=error.detail)
        return None


def source_of(db: Session, tenant: str, engine_session: str) -> str | None:
    """The source that an engine session has read first: its own reading's, or a conversation's."""
    if engine_session.startswith(SOURCE_SESSION):
        return engine_session.removeprefix(SOURCE_SESSION).partition(".")[0]
    try:
        found = sessions.get(db, tenant, engine_session.partition(".")[0])
    except errors.NotFound:
        return None
    return found.sources[0].source_id if found.sources else None


def as_json(plan: Plan, of: str | None) -> dict[str, Any]:
    """Names another source by its id only: its title goes when it goes."""
    return {
        "tokens": plan.tokens,
        "known_tokens": plan.known_tokens,
        "to_read": plan.to_read,
        "segments": plan.segments,
        "known_segments": plan.known_segments,
        "after": plan.after,
        "from": {"source_id": of, "bookmark": plan.from_bookmark or None} if plan.from_session else None,
        "seconds": plan.seconds,
    }
