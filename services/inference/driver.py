"""The one thread that owns the engine. Everything else asks it, by a queue, and waits for the answer.

It also keeps the readings that were used last in the engine's memory, by digest: whoever stands at the same place, a
fork or another session that read the same, finds them too. They are copies of what the vault has, so they give way
when somebody needs the room.
"""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import structlog

from engine import Done, Engine, EngineFull, Event, UnknownSequence
from services import errors

log = structlog.get_logger(__name__)
T = TypeVar("T")
Key = tuple[str, str]  # tenant, digest

_RETRY_AFTER_S = 1.0


class Stop:
    """Says that a call should end: its client left, its deadline passed, or the server goes down."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wake: Callable[[], None] | None = None
        self._set = False

    def set(self) -> None:
        with self._lock:
            self._set, wake = True, self._wake
        if wake:
            wake()

    def check(self) -> None:
        if self._set:
            raise errors.Cancelled("the call was cancelled")

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """While inside, `set` calls `wake`."""
        with self._lock:
            self._wake = wake
        try:
            self.check()
            yield
        finally:
            with self._lock:
                self._wake = None


class Job:
    """The events of one engine request, on their way from the driver's thread to the caller's."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event | Exception] = queue.SimpleQueue()

    def put(self, event: Event | Exception) -> None:
        self._events.put(event)

    def cancel(self) -> None:
        self.put(errors.Cancelled("the call was cancelled"))

    def __iter__(self) -> Iterator[Event]:
        """Up to and with Done; an engine error or a cancel raises."""
        while True:
            event = self._events.get()
            if isinstance(event, Exception):
                raise event
            if isinstance(event, Done) and event.reason == "error":
                raise errors.ShioriError(f"the engine failed: {event.error}")
            yield event
            if isinstance(event, Done):
                return


class Driver:
    def __init__(self, engine: Engine, on_failure: Callable[[], None] = lambda: None) -> None:
        self.engine = engine  # for this thread only, but for what says otherwise
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._jobs: dict[int, Job] = {}
        self._live: OrderedDict[Key, int] = OrderedDict()  # least recently used first
        self._stopping = False
        self._gate = threading.Lock()
        self._on_failure = on_failure
        self.forgotten: Callable[[str], None] = lambda tenant: None  # for others who keep something of a tenant's
        self._thread = threading.Thread(target=self._run, name="engine-driver", daemon=True)
        self._thread.start()

    # --- for other threads --------------------------------------------------------------------------------------------

    def call(self, function: Callable[[Engine], T]) -> T:
        """Runs `function` on the driver's thread, between two steps."""
        future: Future[T] = Future()

        def command() -> None:
            try:
                future.set_result(self._with_room(function))
            except Exception as error:
                future.set_exception(error)

        with self._gate:  # what is put before the gate closes is still obeyed
            if self._stopping:
                raise errors.EngineUnavailable("the engine is stopping")
            self._commands.put(command)
        return future.result()

    def run(self, start: Callable[[Engine], int], stop: Stop) -> Generator[Event]:
        """Starts a request and yields its events. Whoever leaves early must close the sequence, which aborts it."""
        job = Job()
        stop.check()
        self.call(lambda engine: self._jobs.__setitem__(start(engine), job))
        with stop.waking(job.cancel):
            yield from job

    def borrow(self, key: Key) -> int | None:
        """A private copy of the live reading `key`; the reading itself when there is no room for a copy."""

        def borrow(engine: Engine) -> int | None:
            if key not in self._live:
                return None
            self._live.move_to_end(key)
            try:
                return self._with_room(lambda e: e.fork(self._live[key]), spare=key)
            except errors.EngineFull:
                return self._live.pop(key)

        return self.call(borrow)

    def keep(self, key: Key, seq: int) -> None:
        """Hands a sequence over as the live reading `key`."""

        def keep(engine: Engine) -> None:
            if key in self._live:
                _close(engine, seq)
            else:
                self._live[key] = seq

        self.call(keep)

    def keep_copy(self, key: Key, seq: int) -> None:
        """Keeps a copy of `seq` as the live reading `key`, if there is room for one."""

        def keep(engine: Engine) -> None:
            if key not in self._live:
                with suppress(errors.EngineFull):
                    self._live[key] = self._with_room(lambda e: e.fork(seq))

        self.call(keep)

    def close(self, seq: int) -> None:
        with suppress(errors.EngineUnavailable):  # its memory is gone, and the sequence with it
            self.call(lambda engine: _close(engine, seq))

    def forget(self, tenant: str) -> None:
        """Closes the tenant's live readings: one that was deleted must not be answered from."""

        def forget(engine: Engine) -> None:
            for key in [key for key in self._live if key[0] == tenant]:
                _close(engine, self._live.pop(key))

        self.call(forget)
        self.forgotten(tenant)

    def is_live(self, key: Key) -> bool:
        return key in self._live

    def stop(self) -> None:
        """After the step in progress: running requests end with EngineUnavailable."""
        self._close_gate()
        self._commands.put(lambda: None)
        self._thread.join()

    # --- the driver's thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._obey(block=not self.engine.busy)
                for event in self.engine.step() if self.engine.busy else ():
                    self._deliver(event)
        except Exception:
            log.exception("engine_died")  # its memory cannot be trusted; the vault has everything
            self._on_failure()
        finally:
            self._close_gate()
            self._end()

    def _obey(self, block: bool) -> None:
        """Idle, the thread sleeps in here."""
        while True:
            try:
                command = self._commands.get(block=block)
            except queue.Empty:
                return
            command()
            block = False

    def _deliver(self, event: Event) -> None:
        job = self._jobs.pop(event.request, None) if isinstance(event, Done) else self._jobs.get(event.request)
        if job:
            job.put(event)

    def _close_gate(self) -> None:
        with self._gate:
            self._stopping = True

    def _end(self) -> None:
        for job in self._jobs.values():
            job.put(errors.EngineUnavailable("the engine stopped"))
        self._obey(block=False)

    def _with_room(self, function: Callable[[Engine], T], spare: Key | None = None) -> T:
        """Tries, and closes the live reading that was used longest ago, until it works or none is left."""
        while True:
            try:
                return function(self.engine)
            except EngineFull as full:
                oldest = next((key for key in self._live if key != spare), None)
                if oldest is None:
                    raise errors.EngineFull(str(full), retry_after=_RETRY_AFTER_S, **self._room()) from full
                _close(self.engine, self._live.pop(oldest))

    def _room(self) -> dict[str, Any]:
        info = self.engine.describe()
        return {"slots_free": info.slots_free, "pages_free": info.pages_free}


def _close(engine: Engine, seq: int) -> None:
    """A sequence that ended with an error is closed already."""
    try:
        engine.close(seq)
    except UnknownSequence:
        return
