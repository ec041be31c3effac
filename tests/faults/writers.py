"""Two writers of one session: two who resume at once, and one who wakes up after it was replaced."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

from services import errors
from services.inference.client import InferenceClient, tokens
from tests.faults.book import Book, Broken, Standing
from tests.faults.control import digest_of
from tests.faults.fault import Fault
from tests.faults.model import Ids, words

LATE_S = 10.0
RACES = 16


class Writers(Fault):
    def _target(self, dice: random.Random) -> tuple[Book, str, Standing]:
        """A session with something in it."""
        while True:
            book = dice.choice(list(self.world.books.values()))
            found = [(name, standing) for name, standing in book.sure().items() if standing.segments]
            if found:
                return book, *dice.choice(found)
            self.world.work(dice, 4)


class TwoResumers(Writers):
    """Two engines continue one session from the same digest: one moves the head, the other is ABORTED."""

    name = "two_resumers"

    def strike(self, dice: random.Random) -> Counter[str]:
        book, session, standing = self._target(dice)
        lives = [self.world.fresh(), self.world.start()]
        clients = [life.client(book.tenant) for life in lives]
        try:
            for _ in range(RACES):
                segment = self._race(dice, clients, session, standing)
                standing = standing.read(segment)
                book.stands(session, standing)
        finally:
            lives[1].kill()
        self.world.fresh()
        return self.world.check(dice)

    def _race(self, dice: random.Random, clients: list[InferenceClient], session: str, standing: Standing) -> Ids:
        """The winner's segment. Short ones, nearly at once: the check and the commit of two writers interleave."""
        longest = dice.choice([40, 40, 800])
        segments = [words(dice, dice.randint(1, longest)) for _ in clients]
        barrier, delays = threading.Barrier(len(clients)), (0.0, dice.uniform(0, 0.03))
        calls = [
            resume(client, session, segment, standing, barrier, delay)
            for client, segment, delay in zip(clients, segments, delays, strict=True)
        ]
        ends = together(calls)
        won = [segment for segment, end in zip(segments, ends, strict=True) if end.error is None]
        if len(won) != 1 or not all(isinstance(end.error, (errors.Conflict, type(None))) for end in ends):
            raise Broken("mixed", f"two resumers of {session}: {[str(end.error) for end in ends]}")
        return won[0]


class Zombie(Writers):
    """Stopped in the middle of a read, replaced, woken: it is refused, and the new writer's head stands."""

    name = "zombie"

    def strike(self, dice: random.Random) -> Counter[str]:
        book, session, standing = self._target(dice)
        old, new = self.world.fresh(), self.world.start()
        lost, kept = words(dice, dice.randint(300, 2000)), words(dice, dice.randint(1, 300))
        end, call = End(), resume(old.client(book.tenant), session, lost, standing)
        thread = threading.Thread(target=end.run, args=(call,))
        try:
            thread.start()
            time.sleep(dice.uniform(0.005, 0.1))
            old.signal(signal.SIGSTOP)
            standing = self._replace(new.client(book.tenant), book, session, standing, lost, kept)
            old.signal(signal.SIGCONT)
            thread.join(LATE_S)
            early = standing.segments[-2:-1] == (lost,)
            self._judge(session, None if thread.is_alive() else end, early)
        finally:
            old.kill()
            new.kill()
        self.world.fresh()
        return self.world.check(dice) + Counter(early=early)

    def _judge(self, session: str, end: End | None, early: bool) -> None:
        """`early`: the zombie's read was saved before it was stopped."""
        if end is None:
            raise Broken("hang", f"a zombie on {session} heard nothing")
        if (end.error is None) != early:
            raise Broken("mixed", f"a zombie on {session} was told {end.error!r} (it was early: {early})")
        if not isinstance(end.error, (errors.Conflict, type(None))):
            raise Broken("unclear", f"a zombie on {session} was told {end.error!r}")

    def _replace(
        self, client: InferenceClient, book: Book, session: str, standing: Standing, lost: Ids, kept: Ids
    ) -> Standing:
        """By a read on top of what is there now: the zombie may have been done before it was stopped."""
        told = client.describe_session(session)
        if told.head.digest == digest_of(standing.read(lost).segments):
            standing = standing.read(lost)
        for _ in client.read(session, [tokens(kept)], expected_digest=told.head.digest, timeout=20):
            pass
        standing = standing.read(kept)
        book.stands(session, standing)
        return standing


class End:
    """How a call in a thread ended."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def run(self, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            self.error = error


def together(calls: list[Callable[[], None]]) -> list[End]:
    ends = [End() for _ in calls]
    threads = [threading.Thread(target=end.run, args=(call,)) for end, call in zip(ends, calls, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends


def resume(
    client: InferenceClient,
    session: str,
    segment: Ids,
    standing: Standing,
    barrier: threading.Barrier | None = None,
    delay_s: float = 0.0,
) -> Callable[[], None]:
    """A read that expects `standing`; with a barrier it starts when the others do, or a little later."""

    def call() -> None:
        client.describe()
        if barrier:
            barrier.wait(10)
            time.sleep(delay_s)
        digest = digest_of(standing.segments)
        for _ in client.read(session, [tokens(segment)], expected_digest=digest, timeout=20):
            pass

    return call
