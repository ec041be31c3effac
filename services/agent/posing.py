"""A question put to the model without touching its session: read once on a fork, answered as often as needed.

The fork is read up to `<|answer|>`; each try then costs its own tokens only, not the passages again.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress

from services import errors
from services.agent.model import Model, Said, measured, say, special
from services.inference.pb.inference_pb2 import Part

ANSWER_TOKENS = 48


class Posed:
    """A fork that stands right before `<|answer|>`."""

    def __init__(self, model: Model, session_id: str, reading: Said):
        self.model, self.session_id = model, session_id
        self.calls = [reading]  # the reading of the question, then one for each try

    def ask(self) -> Said:
        self.calls.append(say(self.model, self.session_id, [special("answer")], ANSWER_TOKENS))
        return self.calls[-1]


@contextmanager
def posed(model: Model, session_id: str, parts: Sequence[Part], scratch: bool, name: str) -> Iterator[Posed]:
    """`scratch`: on nothing instead of a fork of the session. `name`: the turn's, so a retry clears what it left."""
    with forked(model, session_id, "" if scratch else session_id, name or "turn") as fork:
        yield Posed(model, fork, read_through(model, fork, parts))


@contextmanager
def forked(model: Model, session_id: str, of: str, name: str, bookmark: str = "") -> Iterator[str]:
    """A session `{session_id}.{name}` for a while: a fork `of` another, or empty. One that a kill left goes first."""
    fork, delete = f"{session_id}.{name}", model.delete_session  # looked up now: a stopped job's model refuses later
    with suppress(errors.NotFound):
        delete(fork)
    _ = model.fork_session(of, fork, bookmark) if of else model.open_session(fork)
    try:
        yield fork
    finally:
        with suppress(errors.ShioriError):
            delete(fork)


def read_through(model: Model, session_id: str, parts: Sequence[Part]) -> Said:
    reading = Said()
    with closing(model.read(session_id, parts, segment="question")) as stream:
        for message in stream:
            if message.done:
                reading = measured(reading, message.usage)
    return reading
