"""Jobs over HTTP: progress, replay, waiting, cancelling."""

import threading
import time

import httpx
from fastapi.testclient import TestClient

from services import events
from services.worker.run import Tools
from tests.gateway.helpers import frames, upload, work
from tests.gateway.test_sources import problem


def test_a_job_shows_what_it_does_and_on_what(client: TestClient, tools: Tools) -> None:
    made = upload(client)
    job = client.get(f"/v1/jobs/{made['job_id']}").json()
    assert (job["status"], job["kind"], job["queue"]) == ("queued", "ingest", {"name": "ingest", "position": 0})
    assert job["subject"] == {"type": "document", "id": made["id"]}
    work(tools, made["job_id"])
    job = client.get(f"/v1/jobs/{made['job_id']}").json()
    assert job["status"] == "succeeded" and job["result"]["href"] == f"/v1/documents/{made['id']}"
    assert job["progress"]["segments_done"] == job["progress"]["segments_total"] == 3
    assert client.get(job["result"]["href"]).status_code == 200
    assert {one["kind"] for one in client.get("/v1/jobs").json()["data"]} == {"ingest", "summarise"}


def test_a_stream_is_replayed_from_the_last_event_that_was_seen(served: httpx.Client, tools: Tools) -> None:
    job_id = upload(served)["job_id"]
    work(tools, job_id)
    url = f"/v1/jobs/{job_id}/events"
    whole = [f for f in frames(served.get(url).text.split("\n")) if f[0]]
    assert whole[-1][1] == "done" and whole[-1][2]["status"] == "succeeded" and len(whole) > 4
    for n in (0, 2, len(whole) - 2):
        header = [f for f in frames(served.get(url, headers={"Last-Event-ID": whole[n][0]}).text.split("\n")) if f[0]]
        query = [f for f in frames(served.get(url, params={"after": whole[n][0]}).text.split("\n")) if f[0]]
        assert header == query == whole[n + 1 :]
    problem(served.get(url, params={"after": "yesterday"}), 422, "bad_event_id")


def test_a_stream_follows_what_comes_with_heartbeats_between(served: httpx.Client, tools: Tools, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    from services.gateway import sse

    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.5)
    job_id = upload(served)["job_id"]
    threading.Timer(2.5, work, [tools, job_id]).start()
    with served.stream("GET", f"/v1/jobs/{job_id}/events") as reply:
        names = [name for _, name, _ in frames(reply.iter_lines())]
    assert names[-1] == "done" and names.count("comment") >= 2 and "progress" in names


def test_a_job_whose_events_are_gone_still_ends_its_stream(served: httpx.Client, tools: Tools) -> None:
    job_id = upload(served)["job_id"]
    work(tools, job_id)
    events.forget(tools.redis, job_id)
    found = [f for f in frames(served.get(f"/v1/jobs/{job_id}/events").text.split("\n")) if f[1] != "comment"]
    assert [name for _, name, _ in found] == ["done"] and found[0][2]["status"] == "succeeded"


def test_waiting_for_a_job_ends_when_it_ends(served: httpx.Client, tools: Tools) -> None:
    job_id = upload(served)["job_id"]
    assert served.get(f"/v1/jobs/{job_id}", params={"wait": 0.3}).json()["status"] == "queued"
    threading.Timer(0.3, work, [tools, job_id]).start()
    started = time.monotonic()
    assert served.get(f"/v1/jobs/{job_id}", params={"wait": 30}).json()["status"] == "succeeded"
    assert time.monotonic() - started < 15


def test_cancelling_is_idempotent_and_ends_what_waits_at_once(served: httpx.Client) -> None:
    made = upload(served)
    url = f"/v1/jobs/{made['job_id']}"
    assert [served.post(f"{url}/cancel").json()["status"] for _ in range(2)] == ["cancelled", "cancelled"]
    assert served.get(f"/v1/documents/{made['id']}").json()["status"] == "cancelled"
    assert frames(served.get(f"{url}/events").text.split("\n")).__next__()[1] == "comment"


def test_cancelling_what_has_ended_changes_nothing(client: TestClient, tools: Tools) -> None:
    made = upload(client)
    work(tools, made["job_id"])
    assert client.post(f"/v1/jobs/{made['job_id']}/cancel").json()["status"] == "succeeded"
    assert client.get(f"/v1/documents/{made['id']}").json()["status"] == "ready"


def test_an_upload_while_redis_is_away_is_kept_for_later(client: TestClient, tools: Tools, settings) -> None:  # type: ignore[no-untyped-def]
    from services.worker.sweep import sweep

    url, settings.redis_url = settings.redis_url, "redis://127.0.0.1:1/0"
    job_id = upload(client)["job_id"]
    settings.redis_url = url
    assert tools.redis.llen("ingest") == 0
    time.sleep(2.1)
    sweep(tools)
    assert tools.redis.llen("ingest") == 1
    assert client.get(f"/v1/jobs/{job_id}").json()["status"] == "queued"
