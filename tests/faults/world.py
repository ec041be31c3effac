"""A world: a Redis, tenants with their books, and one engine after the other. After every fault, `check`."""

from __future__ import annotations

import copy
import random
import shutil
from collections import Counter
from pathlib import Path

from services import errors
from services.inference.client import InferenceClient
from tests.faults.book import Book, Broken, Standing
from tests.faults.cold import ColdFolder
from tests.faults.control import Control
from tests.faults.life import Life, Zygote
from tests.faults.model import Segments, save_model
from tests.faults.script import CALL_SECONDS, Running, Script, check_answer
from tests.faults.store import Store

TENANTS = ("anna", "bert")
MENDED, LOST = "mended", "data_loss"


class Lab:
    """What all worlds of a run share: the model, the zygote, the control. It takes seconds to make."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = save_model(folder / "model")
        self.zygote = Zygote(folder / "lives.log")
        self.control = Control(self.model)
        self._worlds = 0

    def world(self, store: Store | None = None, **settings: str) -> World:
        self._worlds += 1
        folder = self.folder / f"world{self._worlds}"
        folder.mkdir()
        return World(self, folder, store or Store(folder / "redis"), settings)

    def stop(self) -> None:
        self.zygote.stop()


class World:
    def __init__(self, lab: Lab, folder: Path, store: Store, settings: dict[str, str]) -> None:
        self.lab, self.folder, self.store = lab, folder, store
        self.cold = ColdFolder(folder / "cold")
        self.books = {tenant: Book(tenant) for tenant in TENANTS}
        self._settings = settings
        self._life: Life | None = None

    # --- engines ------------------------------------------------------------------------------------------------------

    def environment(self, **changes: str) -> dict[str, str]:
        """Of an engine in this world."""
        settings = {
            "ENGINE_ADDRESS": "127.0.0.1:0", "MODEL_DIR": str(self.lab.model), "REDIS_URL": self.store.url,
            "DATA_DIR": str(self.folder), "COLD_URL": self.cold.url,
            "ENGINE_TOKENS": "32768", "ENGINE_THREADS": "1", "LOG_FORMAT": "json",
            "SWEEP_SECONDS": "0.1", "METRICS_ADDRESS": "", "RUNG_SECONDS": "0.03",
        } | self._settings | changes  # fmt: skip
        return {f"SHIORI_{name}": value for name, value in settings.items()}

    def start(self, wait: bool = True, **changes: str) -> Life:
        """One more engine, the caller's to kill."""
        return self.lab.zygote.start(self.environment(**changes), wait)

    @property
    def life(self) -> Life:
        """The engine of now."""
        if self._life is None or not self._life.alive:
            self._life = self.start()
        return self._life

    def fresh(self) -> Life:
        """kill -9, and another engine, which knows nothing."""
        self.end_life()
        self.store.end_leases()
        self._life = self.start()
        return self._life

    def end_life(self, politely: bool = False) -> None:
        if self._life is not None:
            self._life.leave() if politely else self._life.kill()

    # --- work ---------------------------------------------------------------------------------------------------------

    def running(self, dice: random.Random, life: Life | None = None, timeout: float = CALL_SECONDS) -> Running:
        """Scripts of all tenants at once; a context."""
        life = life or self.life
        return Running([self._script(life, book, dice, timeout) for book in self.books.values()])

    def _script(self, life: Life, book: Book, dice: random.Random, timeout: float = CALL_SECONDS) -> Script:
        client = life.client(book.tenant, timeout)
        dice = random.Random(dice.random())
        operator = None if self._settings.get("COLD_URL") == "" else life.vault(book.tenant)
        return Script(client, operator, book, self.lab.control, dice, timeout)

    def work(self, dice: random.Random, steps: int) -> None:
        """So many calls of each tenant, none of which may fail."""
        for book in self.books.values():
            script = self._script(self.life, book, dice)
            for _ in range(steps):
                try:
                    script.step()
                except errors.ShioriError as error:
                    raise Broken("refused", f"with no fault about: {error.code}: {error.detail}") from error
        self.life.hang_up()

    # --- checks -------------------------------------------------------------------------------------------------------

    def check(
        self, dice: random.Random, *, mends: bool = False, loses: bool = False, visit: bool = True
    ) -> Counter[str]:
        """Every session of every tenant opens where the book says and goes on as the control does.

        Unless it `mends`, nothing may have to be computed again: no head may name a block that is not there. When it
        `loses`, what says DATA_LOSS is counted, and deleted. `visit`: a bookmark now and then too, on a fork.
        """
        outcome: Counter[str] = Counter()
        for tenant, book in self.books.items():
            client = self.life.client(tenant)
            self._compare_lists(client, book)
            for session, standing in book.sure().items():
                if standing.segments:
                    outcome += self._open(client, book, session, standing, mends, loses)
            if visit:
                self._visit_mark(client, book, dice, loses)
        self.life.hang_up()
        return outcome

    def _compare_lists(self, client: InferenceClient, book: Book) -> None:
        told = {session.session_id: session for session in client.list_sessions()}
        for session in [*book.possible, *(told.keys() - book.possible.keys())]:
            self._settle(book, session, told.get(session))

    def _settle(self, book: Book, session: str, told: object) -> None:
        """A foreign digest is worse than a lost one."""
        try:
            book.settle(session, told)  # type: ignore[arg-type]
        except Broken as broken:
            digest = told.head.digest if told is not None else ""  # type: ignore[attr-defined]
            for other in self.books.values():
                if other is not book and digest in other.past and digest not in book.past:
                    raise Broken("mixed", f"{broken.detail}; the digest is {other.tenant}'s") from broken
            raise

    def _open(
        self, client: InferenceClient, book: Book, session: str, standing: Standing, mends: bool, loses: bool
    ) -> Counter[str]:
        try:
            usage = check_answer(client, self.lab.control, book.tenant, session, standing.segments)
        except errors.DataLoss as lost:
            if not loses:
                raise Broken("lost", f"{book.tenant}/{session}: {lost.detail}") from lost
            return self._back_to_mark(client, book, session, standing, str(lost.extra.get("bookmark", "")))
        if usage.recomputed and not mends:
            raise Broken("lost", f"{book.tenant}/{session}: its head named what was not there; computed again")
        return Counter({MENDED if usage.recomputed else "whole": 1})

    def _back_to_mark(
        self, client: InferenceClient, book: Book, session: str, standing: Standing, mark: str
    ) -> Counter[str]:
        """What DATA_LOSS says is left must be there; then the session goes."""
        if mark:
            client.rewind_session(session, mark)
            check_answer(client, self.lab.control, book.tenant, session, standing.rewound(mark).segments)
        client.delete_session(session)
        book.stands(session, None)
        return Counter({LOST: 1})

    def _visit_mark(self, client: InferenceClient, book: Book, dice: random.Random, loses: bool) -> None:
        """One bookmark, now and then all."""
        marks: list[tuple[str, str, Segments]] = [
            (session, name, segments)
            for session, standing in book.sure().items()
            for name, segments in standing.marks
            if segments
        ]
        if not marks or dice.random() < 0.7:
            return
        session, name, segments = dice.choice(marks)
        client.fork_session(session, "visit", bookmark=name)
        try:
            check_answer(client, self.lab.control, book.tenant, "visit", segments)
        except errors.DataLoss as lost:
            if not loses:
                raise Broken("lost", f"{book.tenant}/{session} at {name!r}: {lost.detail}") from lost
        finally:
            client.delete_session("visit")

    def check_apart(self) -> None:
        """No block of one tenant has the name of another's: names are keyed."""
        names: dict[bytes, bytes] = {}
        for key in self.store.keys("blk", "man"):
            tenant, _, name = key.partition(b"}:")
            if names.setdefault(name, tenant) != tenant:
                raise Broken("mixed", f"two tenants have a {name.decode()}")

    def stop(self) -> None:
        self.end_life()
        self.store.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Saved:
    """A world's Redis, cold tier and books at one moment, to start from again and again."""

    def __init__(self, world: World) -> None:
        """The engine leaves first, so that what it was about to copy down is there."""
        world.end_life(politely=True)
        self._values, self._files, self._books = world.store.dump(), world.cold.dump(), copy.deepcopy(world.books)

    def load(self, world: World) -> None:
        """The engine of now is killed: what it holds is of another time."""
        self.load_books(world)
        world.cold.load(self._files)
        world.store.load(self._values)

    def load_books(self, world: World) -> None:
        world.end_life()
        world.books = copy.deepcopy(self._books)
