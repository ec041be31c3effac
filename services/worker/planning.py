"""What reading a source will cost, shown before it begins."""

from typing import Any

from services import agent, errors, log
from services.agent import Plan
from services.agent.types import SourceView
from services.library import sources
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
    shown = as_json(plan)
    with run.write() as db:
        sources.get(db, run.tenant, source.id).plan = shown
    counts = {"done": plan.known_tokens, "total": plan.tokens}
    run.report("planned", {"unit": "tokens", **counts, "plan": shown}, force=True)
    run.emit("plan", shown)
    logger.info("reading_planned", source=source.id, **shown)
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


def as_json(plan: Plan) -> dict[str, Any]:
    """Names another source by its id only: its title goes when it goes."""
    of = plan.from_session.removeprefix(SOURCE_SESSION) if plan.from_session.startswith(SOURCE_SESSION) else None
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
