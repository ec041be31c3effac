"""The engine's client as a job uses it: every stream ends when the job is stopped, and a restart is waited for."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

from services import errors, log

logger = log.get_logger(__name__)

T = TypeVar("T")
SILENCE_SECONDS = 300.0
FIRST_WAIT, LONGEST_WAIT = 0.5, 5.0
DROPPED = (errors.Cancelled, errors.EngineUnavailable)


class GuardedModel:
    """An InferenceClient whose `read` and `generate` look at the job between messages and drop the call at its end.

    `stop()` may be called from another thread: it closes the stream under way, so a silent engine cannot hold a
    cancelled job.
    """

    def __init__(self, model: Any, check: Callable[[], None]) -> None:
        self._model, self._check, self._stream, self._heard = model, check, None, time.monotonic()

    def __getattr__(self, name: str) -> Any:
        self._check()
        return getattr(self._model, name)

    def read(self, *args: Any, **options: Any) -> Iterator[Any]:
        self._check()
        return self._guard(self._model.read(*args, **options))

    def generate(self, *args: Any, **options: Any) -> Iterator[Any]:
        self._check()
        return self._guard(self._model.generate(*args, **options))

    def stop(self) -> None:
        stream = self._stream
        if stream is not None:
            with suppress(ValueError):  # a generator (in tests) that is running closes itself at the next message
                stream.close()

    def silent(self) -> bool:
        """A stream is open and nothing has come for long."""
        return self._stream is not None and time.monotonic() - self._heard > SILENCE_SECONDS

    def _guard(self, stream: Any) -> Iterator[Any]:
        self._stream, self._heard = stream, time.monotonic()
        try:
            for message in stream:
                self._heard = time.monotonic()
                self._check()
                yield message
        except DROPPED:
            self._check()  # a dropped call was dropped for a reason, which says more
            raise
        finally:
            self._stream = None
            if hasattr(stream, "close"):
                stream.close()


def patiently(call: Callable[[], T], seconds: float, waiting: Callable[[], None], check: Callable[[], None]) -> T:
    """Calls again while the engine is away, for so long. `waiting` says so; `check` raises when the job is stopped."""
    pause, since = FIRST_WAIT, 0.0
    while True:
        began = time.monotonic()
        try:
            return call()
        except (errors.EngineUnavailable, errors.EngineFull) as error:
            since = since if since and time.monotonic() - began < LONGEST_WAIT else time.monotonic()
            if time.monotonic() + pause - since > seconds:
                raise
            logger.info("waiting_for_engine", code=error.code, pause=pause)
            waiting()
        _sleep(pause, check)
        pause = min(2 * pause, LONGEST_WAIT)


def _sleep(seconds: float, check: Callable[[], None]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check()
        time.sleep(min(left, 0.25))
