"""A library, a Redis, a twin of the engine: a worker's surroundings."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.jobs import Kinds
from services.library import blobs, jobs, sessions, sources
from services.library.db import Database
from services.settings import Settings
from services.worker.perform import perform
from services.worker.run import Tools
from services.worker.tasks import WORK, make_tools
from tests.fakes import FileTwin

BOOK = "\n\n".join(
    f"CHAPTER {n}\n\nIn chapter {n} Osric Vane lit the lamp {n} times. The sea was calm." for n in range(1, 9)
)


class System:
    """What a test does with a library and a worker in its own process."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.database = settings, Database(settings.database_url)
        self.twin = FileTwin(folder / "engine")
        self.tools: Tools = make_tools(settings, lambda tenant: self.twin)

    def upload(self, text: str | bytes = BOOK, name: str = "book.txt", kind: str = "document") -> tuple[str, str]:
        """A source and its ingest job."""
        raw = text.encode() if isinstance(text, str) else text
        path = self.settings.data_dir / "upload"
        path.write_bytes(raw)
        with path.open("rb") as stream:
            blob = blobs.store(self.settings.blob_dir, stream, 10_000_000)
        with self.database.write() as db:
            source = sources.create(db, "default", kind, name, filename=name, sha256=blob.sha256, bytes=blob.bytes)
            return source.id, jobs.create(db, "default", Kinds.ingest, source.id).id

    def work(self, kind: Kinds, subject: str, job_id: str) -> jobs.Job:
        perform(self.tools, job_id, lambda run: WORK[kind](run, subject))
        return self.job(job_id)

    def job(self, job_id: str) -> jobs.Job:
        with self.database.read() as db:
            return jobs.get(db, "default", job_id)

    def source(self, source_id: str) -> sources.Source:
        with self.database.read() as db:
            return sources.get(db, "default", source_id)

    def ready(self, text: str = BOOK) -> str:
        source_id, job_id = self.upload(text)
        assert self.work(Kinds.ingest, source_id, job_id).status == "succeeded"
        return source_id

    def session(self, *source_ids: str) -> str:
        with self.database.write() as db:
            return sessions.create(db, "default", source_ids).id

    def ask(self, session_id: str, question: str) -> tuple[str, str]:
        with self.database.write() as db:
            turn = sessions.add_turn(db, "default", session_id, question, None)
            turn.job_id = jobs.create(db, "default", Kinds.answer, turn.id).id
            return turn.id, turn.job_id

    def answered(self, session_id: str, question: str) -> sessions.Turn:
        turn_id, job_id = self.ask(session_id, question)
        job = self.work(Kinds.answer, turn_id, job_id)
        assert job.status == "succeeded", job.error
        with self.database.read() as db:
            return sessions.get_turn(db, "default", turn_id)


@pytest.fixture
def system(settings: Settings, tmp_path: Path) -> Iterator[System]:
    made = System(settings, tmp_path)
    yield made
    made.database.dispose()
    made.tools.database.dispose()


@pytest.fixture
def later() -> Iterator[Callable[[float, Callable[[], object]], None]]:
    """`later(0.5, f)` calls f from another thread."""
    import threading

    timers: list[threading.Timer] = []

    def schedule(seconds: float, call: Callable[[], object]) -> None:
        timers.append(threading.Timer(seconds, call))
        timers[-1].start()

    yield schedule
    for timer in timers:
        timer.join()
