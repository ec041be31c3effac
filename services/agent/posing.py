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

    def ask(self, quoting: bool = False) -> Said:
        """`quoting`: it must quote something."""
        self.calls.append(say(self.model, self.session_id, [special("answer")], ANSWER_TOKENS, quoting))
        return self.calls[-1]


@contextmanager
def posed(model: Model, session_id: str, parts: Sequence[Part], scratch: bool, name: str) -> Iterator[Posed]:
    """`scratch`: on nothing instead of a fork of the session. `name`: the turn's, so a retry clears what it left."""
    fork = f"{session_id}.{name or 'turn'}"
    with suppress(errors.NotFound):
        model.delete_session(fork)
    _ = model.open_session(fork) if scratch else model.fork_session(session_id, fork)
    try:
        yield Posed(model, fork, read_through(model, fork, parts))
    finally:
        with suppress(errors.ShioriError):
            model.delete_session(fork)


def read_through(model: Model, session_id: str, parts: Sequence[Part]) -> Said:
    reading = Said()
    with closing(model.read(session_id, parts, segment="question")) as stream:
        for message in stream:
            if message.done:
                reading = measured(reading, message.usage)
    return reading
