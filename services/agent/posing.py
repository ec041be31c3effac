"""An earlier place of a session, to ask from without moving the session."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from services import errors
from services.agent.model import Model


@contextmanager
def forked(model: Model, session_id: str, name: str, bookmark: str = "") -> Iterator[str]:
    """A fork `{session_id}.{name}` at a bookmark, for a while. One that a kill left behind goes first."""
    fork, delete = f"{session_id}.{name}", model.delete_session  # looked up now: a stopped job's model refuses later
    with suppress(errors.NotFound):
        delete(fork, later=True)
    model.fork_session(session_id, fork, bookmark)
    try:
        yield fork
    finally:
        with suppress(errors.ShioriError):
            delete(fork, later=True)
