"""Engine sessions whose owners were deleted: they go for good, with the scratch forks that a kill may have left."""

from contextlib import suppress
from typing import Any

from services import errors
from services.library import sources
from services.worker.run import Tools

MANY = 1_000
LATER = (errors.Conflict, errors.EngineUnavailable, errors.Unavailable, errors.DeadlineExceeded)


def empty_bin(tools: Tools) -> int:
    """How many are gone now; what cannot go now stays condemned."""
    with tools.database.read() as db:
        condemned = sources.discarded(db)
    gone = [(tenant, name) for tenant, name in condemned if forget(tools.model_of(tenant), name)]
    with tools.database.write() as db:
        for tenant, name in gone:
            sources.forget_discarded(db, tenant, name)
    tools.database.checkpoint()
    return len(gone)


def forget(model: Any, engine_session: str) -> bool:
    """False: not now, because somebody uses it or the engine is away."""
    try:
        _delete(model, engine_session)
        for fork in scratch_forks(model, engine_session):
            _delete(model, fork)
    except LATER:
        return False
    return True


def scratch_forks(model: Any, engine_session: str) -> list[str]:
    """Sessions named `{session}.…`; the engine lists names in order."""
    prefix = f"{engine_session}."
    names = [session.session_id for session in model.list_sessions(MANY, prefix)]
    return [name for name in names if name.startswith(prefix)]


def _delete(model: Any, name: str) -> None:
    with suppress(errors.NotFound):
        model.delete_session(name)
