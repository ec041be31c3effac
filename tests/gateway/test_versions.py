"""New versions of sources, what they cost, room for readings, and trying again."""

import httpx
from fastapi.testclient import TestClient

from services.library.db import Database
from services.library.tables import Source
from services.worker.run import Tools
from tests.fakes import FileTwin
from tests.gateway.conftest import BOOK
from tests.gateway.helpers import frames, read_book, upload, work
from tests.gateway.test_sources import archive, problem

GROWN = BOOK + "\nCHAPTER IV\n\nIn spring the ships came back, and Mirabel counted them.\n"


def newer(client: TestClient, previous: str, text: str = GROWN) -> httpx.Response:
    reply: httpx.Response = client.post(
        "/v1/documents", files={"file": ("book.txt", text.encode())}, data={"previous": previous}
    )
    return reply


def test_of_a_new_version_only_the_tail_is_read_and_the_plan_says_so_before(client: TestClient, tools: Tools) -> None:
    book = read_book(client, tools)
    assert book["plan"]["known_tokens"] == 0 and book["reading"]["read_tokens"] == book["tokens"]
    made = newer(client, book["id"]).json()
    assert made["previous"] == book["id"] and made["plan"] is None
    work(tools, made["job_id"])
    found = client.get(f"/v1/documents/{made['id']}").json()
    plan, reading = found["plan"], found["reading"]
    assert plan["from"] == {"source_id": book["id"], "title": book["title"], "bookmark": plan["from"]["bookmark"]}
    assert plan["known_tokens"] + plan["to_read"] == plan["tokens"] == found["tokens"]
    assert (reading["shared_tokens"], reading["read_tokens"]) == (plan["known_tokens"], plan["to_read"])
    assert 0 < plan["to_read"] < plan["known_tokens"] and plan["after"] == "CHAPTER II"


def test_the_plan_is_told_before_the_first_token_is_read(served: httpx.Client, tools: Tools) -> None:
    made = upload(served)
    work(tools, made["job_id"])
    told = [(name, data) for _, name, data in frames(served.get(f"/v1/jobs/{made['job_id']}/events").iter_lines())]
    at = [name for name, _ in told].index("plan")
    phases = [data["phase"] for name, data in told[:at] if name == "progress"]
    assert "planned" in phases and told[at][1]["to_read"] == told[at][1]["tokens"] > 0
    assert not any(data.get("durable") for name, data in told[:at] if name == "progress")


def test_the_version_before_must_be_ones_own_of_the_same_kind_and_read(client: TestClient, tools: Tools) -> None:
    problem(newer(client, "doc_nowhere"), 404, "not_found")
    waiting = upload(client)
    problem(newer(client, waiting["id"]), 409, "not_ready")
    book = read_book(client, tools)
    files = {"file": ("r.zip", archive({"a.py": "x = 1\n"}))}
    problem(client.post("/v1/repositories", files=files, data={"previous": book["id"]}), 404, "not_found")


def test_a_newer_archive_keeps_the_order_that_was_read_before(client: TestClient, tools: Tools) -> None:
    files = {"zoo.py": "z = 1\n", "README.md": "# Zoo\n"}
    old = client.post("/v1/repositories", files={"file": ("r.zip", archive(files))}).json()
    work(tools, old["job_id"])
    more = {**files, "ape.py": "a = 1\n"}
    new = client.post("/v1/repositories", files={"file": ("r.zip", archive(more))}, data={"previous": old["id"]}).json()
    work(tools, new["job_id"])
    found = client.get(f"/v1/repositories/{new['id']}").json()
    assert [entry["path"] for entry in found["outline"]] == ["zoo.py", "README.md", "ape.py"]
    assert found["plan"]["known_segments"] == 2
    listed = client.get(f"/v1/repositories/{new['id']}/files").json()["data"]
    assert [file["path"] for file in listed] == ["README.md", "ape.py", "zoo.py"]


def test_a_repository_by_url_is_refreshed_on_the_branch_it_was_asked_for(
    client: TestClient, tools: Tools, database: Database
) -> None:
    made = client.post("/v1/repositories", json={"url": "https://github.com/o/n", "revision": "dev"}).json()
    problem(client.post(f"/v1/repositories/{made['id']}/refresh"), 409, "not_ready")
    with database.write() as db:
        row = db.get(Source, made["id"])
        assert row
        row.status, row.revision = "ready", "a" * 40
    again = client.post(f"/v1/repositories/{made['id']}/refresh")
    assert again.status_code == 202 and again.headers["location"] == f"/v1/jobs/{again.json()['job_id']}"
    fields = ("url", "ref", "revision", "previous", "status")
    assert [again.json()[name] for name in fields] == [made["url"], "dev", "dev", made["id"], "queued"]


def test_an_archive_cannot_be_refreshed(client: TestClient, tools: Tools) -> None:
    files = {"file": ("r.zip", archive({"a.py": "x = 1\n"}))}
    made = client.post("/v1/repositories", files=files).json()
    work(tools, made["job_id"])
    problem(client.post(f"/v1/repositories/{made['id']}/refresh"), 422, "no_url")


def test_without_room_the_upload_stays_and_can_be_read_once_there_is_some(
    client: TestClient, tools: Tools, twin: FileTwin
) -> None:
    shared = tools.model_of("default")
    shared.quota = 10
    tools.model_of = lambda tenant: shared
    made = upload(client)
    work(tools, made["job_id"])
    job = client.get(f"/v1/jobs/{made['job_id']}").json()
    assert (job["status"], job["error"]["code"], job["error"]["status"]) == ("failed", "quota_exceeded", 507)
    assert "Delete sources" in job["error"]["detail"] and "SHIORI_QUOTA_MB" in job["error"]["detail"]
    assert client.get(f"/v1/documents/{made['id']}").json()["error"]["code"] == "quota_exceeded"
    shared.quota = None
    again = client.post(f"/v1/jobs/{made['job_id']}/retry")
    assert again.status_code == 202 and (again.json()["status"], again.json()["error"]) == ("queued", None)
    assert client.get(f"/v1/documents/{made['id']}").json()["status"] == "queued"
    work(tools, made["job_id"])
    assert client.get(f"/v1/documents/{made['id']}").json()["status"] == "ready"
    problem(client.post(f"/v1/jobs/{made['job_id']}/retry"), 409, "not_retryable")


def test_a_cancelled_reading_is_taken_up_again_and_its_events_begin_anew(served: httpx.Client, tools: Tools) -> None:
    made = upload(served)
    url = f"/v1/jobs/{made['job_id']}"
    assert served.post(f"{url}/cancel").json()["status"] == "cancelled"
    assert served.post(f"{url}/retry").json()["status"] == "queued"
    work(tools, made["job_id"])
    told = [(name, data) for _, name, data in frames(served.get(f"{url}/events").iter_lines())]
    assert [data["status"] for name, data in told if name == "done"] == ["succeeded"]


def test_a_question_is_only_retried_where_it_was_asked(client: TestClient, tools: Tools) -> None:
    book = read_book(client, tools)
    session = client.post("/v1/sessions", json={"source_ids": [book["id"]]}).json()
    first, second = (asked(tools, session["id"], words) for words in ("one?", "two?"))
    assert client.post(f"/v1/jobs/{first}/retry").status_code == 202
    problem(client.post(f"/v1/jobs/{second}/retry"), 409, "session_busy")
    work(tools, first)
    problem(client.post(f"/v1/jobs/{second}/retry"), 409, "session_head_moved")
    messages = client.get(f"/v1/sessions/{session['id']}/messages").json()["data"]
    assert [(one["question"], one["status"]) for one in messages] == [("one?", "succeeded")]


def asked(tools: Tools, session_id: str, question: str) -> str:
    """The job of a question that was cancelled before anybody took it."""
    from services.gateway import work as gateway
    from services.jobs import Kinds
    from services.library import jobs, sessions

    with tools.database.write() as db:
        turn = sessions.add_turn(db, "default", session_id, question, None)
        turn.job_id = jobs.create(db, "default", Kinds.answer, turn.id).id
        gateway.cancel_in(db, "default", turn.job_id)
    return str(turn.job_id)


def test_usage_shows_tiers_and_quota_and_no_addresses(client: TestClient, tools: Tools, twin: FileTwin) -> None:
    empty = client.get("/v1/usage").json()
    assert (empty["readings"], empty["used_bytes"], empty["quota_bytes"]) == (0, 0, None)
    read_book(client, tools)
    found = client.get("/v1/usage")
    assert found.json()["readings"] == 1 and found.json()["tiers"][0]["bytes"] == found.json()["used_bytes"] > 0
    assert "secret" not in found.text
    (twin.folder / "down").touch()
    problem(client.get("/v1/usage"), 503, "engine_unavailable")
