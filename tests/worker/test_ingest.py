"""Ingest: from bytes to a reading; what goes wrong is said, what was done is not done twice."""

import time
from collections.abc import Callable

import pytest

from services import events, jobs
from services.jobs import Kinds
from services.library import deletion, sources, summaries
from services.library import jobs as job_rows
from services.worker.bin import empty_bin
from services.worker.perform import perform
from services.worker.tasks import WORK
from tests.worker.conftest import BOOK, System


def test_a_book_is_parsed_read_and_queued_for_its_summary(system: System) -> None:
    source_id = system.ready()
    source = system.source(source_id)
    assert (source.status, source.characters, len(source.outline)) == ("ready", len(BOOK), 8)
    assert source.tokens and source.reading_id
    reading = system.twin.describe_session(sources.engine_session(source_id))
    with system.database.read() as db:
        stored = sources.reading(db, "default", source_id)
        assert (stored.segments_done, stored.digest) == (8, reading.head.digest)
        summary_job = job_rows.latest(db, "default", source_id, Kinds.summarise)
        assert sources.text(db, "default", source_id, 0)[0] == BOOK
    assert summary_job and system.work(Kinds.summarise, source_id, summary_job.id).status == "succeeded"
    with system.database.read() as db:
        rows = summaries.listed(db, "default", source_id)
    assert [row.chapter for row in rows] == [None, *range(8)]
    assert all(BOOK[slice(*quote["char"])] == quote["text"] for row in rows for quote in row.quotes)


def test_delivered_twice_it_is_read_once(system: System) -> None:
    source_id, job_id = system.upload()
    system.work(Kinds.ingest, source_id, job_id)
    position = system.twin.describe_session(sources.engine_session(source_id)).head.position
    assert system.work(Kinds.ingest, source_id, job_id).attempt == 1
    assert system.twin.describe_session(sources.engine_session(source_id)).head.position == position


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("book.pdf", b"%PDF-1.7 not really", "damaged"),
        ("book.txt", b"\x00\xff\xfe" * 500, None),
        ("x.exe", b"MZ\x90\x00" + bytes(500), None),
    ],
)
def test_a_file_that_cannot_be_read_fails_with_a_reason_and_harms_nobody(
    system: System, name: str, data: bytes, code: str | None
) -> None:
    source_id, job_id = system.upload(data, name)
    job = system.work(Kinds.ingest, source_id, job_id)
    source = system.source(source_id)
    assert (job.status, source.status) == ("failed", "failed")
    assert source.error and len(source.error["detail"]) > 20 and source.error["status"] in (415, 422)
    assert system.source(system.ready()).status == "ready"


def test_cancelled_while_reading_it_ends_within_a_second_and_keeps_what_was_saved(
    system: System, later: Callable[[float, Callable[[], object]], None]
) -> None:
    system.twin.delay = 0.1
    source_id, job_id = system.upload()
    later(1.5, lambda: jobs.request_cancel(system.tools.redis, job_id))
    started = time.monotonic()
    assert system.work(Kinds.ingest, source_id, job_id).status == "cancelled"
    assert time.monotonic() - started < 3.5
    assert system.source(source_id).status == "cancelled"
    assert events.read(system.tools.redis, job_id)[-1].data["status"] == "cancelled"


def test_the_flag_in_sql_alone_cancels_too(
    system: System, later: Callable[[float, Callable[[], object]], None]
) -> None:
    system.settings.heartbeat_seconds, system.twin.delay = 0.3, 0.1
    source_id, job_id = system.upload()

    def cancel() -> None:
        with system.database.write() as db:
            job_rows.request_cancel(db, "default", job_id)

    later(1.0, cancel)
    assert system.work(Kinds.ingest, source_id, job_id).status == "cancelled"


def test_an_engine_that_restarts_is_waited_for_and_said_so(
    system: System, later: Callable[[float, Callable[[], object]], None]
) -> None:
    system.twin.delay = 0.05
    down = system.twin.folder / "down"
    later(1.0, down.touch)
    later(3.0, down.unlink)
    source_id, job_id = system.upload()
    assert system.work(Kinds.ingest, source_id, job_id).status == "succeeded"
    phases = [event.data.get("phase") for event in events.read(system.tools.redis, job_id)]
    assert "waiting for the engine" in phases
    assert phases.index("waiting for the engine") < len(phases) - 1 - phases[::-1].index("reading")


def test_an_engine_that_stays_away_gives_the_job_back_and_in_the_end_fails_it(system: System) -> None:
    system.settings.engine_patience_seconds, system.settings.job_attempts = 0, 2
    (system.twin.folder / "down").touch()
    source_id, job_id = system.upload()
    assert system.work(Kinds.ingest, source_id, job_id).status == "queued"
    job = system.work(Kinds.ingest, source_id, job_id)
    assert (job.status, job.error and job.error["code"]) == ("failed", "engine_unavailable")
    assert system.source(source_id).status == "failed"


def test_a_source_too_long_to_hold_is_ready_and_answered_by_search(system: System) -> None:
    system.twin.room = 100
    source_id = system.ready()
    source = system.source(source_id)
    assert source.reading_id is None and "search" in source.warnings[-1]
    assert system.answered(system.session(source_id), "Who lit the lamp 3 times?").origin == "retrieved"


def test_a_source_deleted_while_it_is_read_stops_quietly(
    system: System, later: Callable[[float, Callable[[], object]], None]
) -> None:
    system.settings.heartbeat_seconds, system.twin.delay = 0.3, 0.05

    def delete() -> None:
        while not segments(system, source_id):
            time.sleep(0.05)
        with system.database.write() as db:
            deletion.delete_source(db, "default", source_id)

    source_id, job_id = system.upload()
    later(0.1, delete)
    perform(system.tools, job_id, lambda run: WORK[Kinds.ingest](run, source_id))
    assert events.read(system.tools.redis, job_id) == []
    assert empty_bin(system.tools) == 1
    assert sources.engine_session(source_id) not in system.twin.path.read_text()


def segments(system: System, source_id: str) -> int:
    with system.database.write() as db:
        return sources.reading(db, "default", source_id).segments_done
