"""A job is claimed by one, kept by heartbeats, ended once."""

import threading
from datetime import timedelta

import sqlalchemy as sa

from services.library import jobs
from services.library.db import Database
from services.library.tables import Job, now


def new_job(database: Database) -> str:
    with database.write() as db:
        return jobs.create(db, "default", "ingest", "doc_x").id


def make_stale(database: Database, job_id: str) -> None:
    with database.write() as db:
        db.execute(sa.update(Job).where(Job.id == job_id).values(heartbeat_at=now() - timedelta(minutes=5)))


def claim(database: Database, job_id: str) -> Job | None:
    with database.write() as db:
        return jobs.claim(db, job_id, lost_after=30)


def test_of_many_deliveries_one_gets_the_job(database: Database) -> None:
    job_id, got = new_job(database), []
    threads = [threading.Thread(target=lambda: got.append(claim(database, job_id))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [job.attempt for job in got if job] == [1]


def test_a_lost_workers_job_can_be_claimed_again_and_the_lost_one_changes_nothing(database: Database) -> None:
    job_id = new_job(database)
    assert claim(database, job_id)
    assert claim(database, job_id) is None
    make_stale(database, job_id)
    with database.read() as db:
        assert [job.id for job in jobs.lost(db, 30)] == [job_id]
    second = claim(database, job_id)
    assert second and second.attempt == 2
    with database.write() as db:
        assert not jobs.beat(db, job_id, attempt=1)
        assert not jobs.report(db, job_id, 1, "reading", None)
        assert not jobs.finish(db, job_id, 1, "failed")
        assert jobs.finish(db, job_id, 2, "succeeded")


def test_a_waiting_job_ends_when_it_is_cancelled_and_stays_ended(database: Database) -> None:
    job_id = new_job(database)
    with database.write() as db:
        assert jobs.request_cancel(db, "default", job_id)
        assert not jobs.request_cancel(db, "default", job_id)
    assert claim(database, job_id) is None
    with database.read() as db:
        assert jobs.get(db, "default", job_id).status == "cancelled"


def test_a_running_job_is_only_told(database: Database) -> None:
    job_id = new_job(database)
    claim(database, job_id)
    with database.write() as db:
        assert not jobs.request_cancel(db, "default", job_id)
        assert jobs.cancel_requested(db, job_id)


def test_times_come_back_in_utc(database: Database) -> None:
    job_id = new_job(database)
    with database.read() as db:
        created = jobs.get(db, "default", job_id).created_at
    assert created.utcoffset() == timedelta(0)
    assert abs(now() - created) < timedelta(seconds=30)
