"""kill -9 of the engine and of Redis while two tenants work."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter

from services import errors
from services.inference.client import tokens
from tests.faults.book import Book, Broken, Standing
from tests.faults.fault import Fault, check_clear
from tests.faults.life import await_serving, start_process
from tests.faults.model import Ids, words
from tests.faults.world import TENANTS


class KillEngine(Fault):
    """At a random instant of its work; one in ten while it starts."""

    name, kills = "kill_engine", 1

    def strike(self, dice: random.Random) -> Counter[str]:
        if dice.random() < 0.1:
            starting = self.world.start(wait=False)
            time.sleep(dice.uniform(0, 0.06))
            starting.kill()
        else:
            with self.world.running(dice) as running:
                time.sleep(dice.uniform(0, 0.25))
                running.stop()
                self.world.life.kill()
        self.world.fresh()
        return self.world.check(dice)


class KillRealEngine(Fault):
    """`python -m services.inference`, so that the zygote's shortcut is checked too."""

    name, kills = "kill_real_engine", 1

    def strike(self, dice: random.Random) -> Counter[str]:
        life, process = start_process(self.world.environment(), self.lab.folder / "lives.log")
        try:
            await_serving(life, TENANTS[0])
            with self.world.running(dice, life) as running:
                time.sleep(dice.uniform(0.1, 0.6))
                running.stop()
                life.kill()
        finally:
            life.kill()
            process.wait()
        self.world.fresh()
        return self.world.check(dice)


class KillRedis(Fault):
    """It comes back in the same folder; the engine lives on.

    With `always` what was acknowledged is in the append-only file. With `everysec` Redis answers before it writes while
    the disk is busy with the sync before, so a session may step back to where it stood a moment ago; it is whole there.
    """

    name, kills = "kill_redis", 1

    def strike(self, dice: random.Random) -> Counter[str]:
        always = dice.random() < 0.5
        self.world.store.client.config_set("appendfsync", "always" if always else "everysec")
        with self.world.running(dice) as running:
            time.sleep(dice.uniform(0, 0.2))
            self.world.store.kill()
            time.sleep(dice.uniform(0, 0.1))
            self.world.store.start()
            self.world.store.end_leases()
            time.sleep(dice.uniform(0, 0.1))
        check_clear(running, errors.Unavailable, errors.EngineUnavailable)
        self.world.fresh()
        books = list(self.world.books.values())
        acknowledged = [book.sure() for book in books]
        for book in books:
            if not always:
                book.lately()
        outcome = self.world.check(dice)
        back = sum(
            book.sure().get(name) != at
            for book, sure in zip(books, acknowledged, strict=True)
            for name, at in sure.items()
        )
        return outcome + Counter(stepped_back=back)


class KillMidRead(Fault):
    """In the middle of a long segment. The watermark holds: who reads it again goes on where it stood, or further."""

    name, kills = "kill_mid_read", 1

    def strike(self, dice: random.Random) -> Counter[str]:
        book = dice.choice(list(self.world.books.values()))
        sure = book.sure()
        session = dice.choice(sorted(sure)) if sure else "s0"
        standing, segment = sure.get(session, Standing()), words(dice, dice.randint(700, 3000))
        self.world.life.client(book.tenant).open_session(session)
        heard = self._read_until_killed(book, session, segment, dice)
        self.world.fresh()
        outcome = Counter(within=int(heard > standing.position))
        book.stands(session, standing.read(segment))
        self._read_again(book.tenant, session, standing, segment, max(heard, standing.position))
        outcome += self.world.check(dice)
        self.world.life.client(book.tenant).delete_session(session)
        book.stands(session, None)
        return outcome

    def _read_until_killed(self, book: Book, session: str, segment: Ids, dice: random.Random) -> int:
        """The last watermark that the client heard."""
        heard = 0
        killer = threading.Timer(dice.uniform(0.02, 0.6), self.world.life.kill)
        stream = self.world.life.client(book.tenant).read(session, [tokens(segment)], timeout=20)
        killer.start()
        with contextlib.suppress(errors.ShioriError, ValueError):
            for progress in stream:
                heard = max(heard, progress.durable_position)
        killer.join()
        return heard

    def _read_again(self, tenant: str, session: str, standing: Standing, segment: Ids, heard: int) -> None:
        """Unless all of it was saved in the last moment."""
        client, end = self.world.life.client(tenant), standing.position + len(segment)
        if client.describe_session(session).head.position == end:
            return
        first, *_, last = client.read(session, [tokens(segment)], timeout=20)
        if heard == end or first.durable_position < heard or last.usage.read_tokens > end - heard:
            safe = f"{heard} tokens were said to be safe, {first.durable_position} are"
            raise Broken("lost", f"{tenant}/{session}: {safe}, {last.usage.read_tokens} were read again")
