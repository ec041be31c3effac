"""Sessions, messages, bookmarks, forks, streams."""

import threading
import time

import httpx
from fastapi.testclient import TestClient

from services.worker.run import Tools
from tests.fakes import FileTwin
from tests.gateway.conftest import BOOK
from tests.gateway.helpers import Answering, frames, read_book, session_over, upload
from tests.gateway.test_sources import problem

QUESTION = {"content": "Who kept the ledger?"}
SSE = {"Accept": "text/event-stream"}


def test_a_question_is_answered_with_quotes(client: TestClient, tools: Tools) -> None:
    session = session_over(client, read_book(client, tools)["id"])
    assert session["head"] == session["id"]
    with Answering(tools):
        reply = client.post(f"/v1/sessions/{session['id']}/messages", json={**QUESTION, "expected_head": session["id"]})
    message = reply.json()
    assert reply.status_code == 200, message
    assert message["answer"] and message["origin"] == "read" and message["head"] == message["id"]
    assert {"prompt_tokens", "read_tokens", "resumed_tokens", "completion_tokens"} <= message["usage"].keys()
    for quote in message["quotes"]:
        assert BOOK[slice(*quote["char"])] == quote["text"] and quote["match"] == "exact"
    assert client.get(f"/v1/sessions/{session['id']}").json()["head"] == message["id"]
    stored = client.get(f"/v1/sessions/{session['id']}/messages").json()["data"]
    assert stored == [message]
    moved = client.post(f"/v1/sessions/{session['id']}/messages", json={**QUESTION, "expected_head": session["id"]})
    assert problem(moved, 409, "session_head_moved")["head"] == message["id"]


def test_a_source_that_is_not_ready_cannot_be_asked(client: TestClient) -> None:
    session = session_over(client, upload(client)["id"])
    problem(client.post(f"/v1/sessions/{session['id']}/messages", json=QUESTION), 409, "not_ready")
    assert client.get(f"/v1/sessions/{session['id']}/messages").json()["data"] == []


def test_bookmarks_forks_and_rewinding(client: TestClient, tools: Tools) -> None:
    url = f"/v1/sessions/{session_over(client, read_book(client, tools)['id'])['id']}"
    with Answering(tools):
        first = client.post(f"{url}/messages", json=QUESTION).json()
        bookmark = client.post(f"{url}/bookmarks", json={"name": "ledger"}).json()
        client.post(f"{url}/messages", json={"content": "Who lit the lamp?"})
        assert (bookmark["turn"], bookmark["head"]) == (1, first["id"])
        problem(client.post(f"{url}/bookmarks", json={"name": "ledger"}), 409, "already_exists")
        fork = client.post(f"{url}/fork", json={"bookmark": bookmark["id"]})
        assert fork.status_code == 201 and fork.json()["parent"] == url.split("/")[-1]
        forked = f"/v1/sessions/{fork.json()['id']}"
        client.post(f"{forked}/messages", json={"content": "What about winter?"})
        assert client.post(f"{url}/rewind", json={"bookmark": "ledger"}).json()["head"] == first["id"]
    questions = [m["question"] for m in client.get(f"{forked}/messages").json()["data"]]
    assert questions == ["Who kept the ledger?", "What about winter?"]
    assert [m["id"] for m in client.get(f"{url}/messages").json()["data"]] == [first["id"]]
    assert client.get(f"{url}/bookmarks").json()["data"][0]["name"] == "ledger"
    problem(client.post(f"{url}/rewind", json={"bookmark": "nowhere"}), 404, "not_found")
    assert client.post(f"{url}/fork").status_code == 201


def test_a_session_is_listed_renamed_and_deleted(client: TestClient, tools: Tools) -> None:
    book = read_book(client, tools)
    session = session_over(client, book["id"])
    found = client.get("/v1/sessions", params={"source_id": book["id"]}).json()["data"]
    assert [one["id"] for one in found] == [session["id"]]
    assert client.patch(f"/v1/sessions/{session['id']}", json={"title": "Lamp"}).json()["title"] == "Lamp"
    assert client.delete(f"/v1/sessions/{session['id']}").status_code == 204
    problem(client.get(f"/v1/sessions/{session['id']}"), 404, "not_found")


def test_a_stream_has_the_answers_events_in_order(served: httpx.Client, tools: Tools) -> None:
    session = session_over(served, read_book(served, tools)["id"])
    url = f"/v1/sessions/{session['id']}/messages"
    with Answering(tools), served.stream("POST", url, json=QUESTION, headers=SSE) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        found = [frame for frame in frames(reply.iter_lines()) if frame[1] != "comment"]
    names = [name for _, name, _ in found]
    assert names[0] == "message.created" and names[-2:] == ["message.completed", "done"]
    assert {"delta", "citation", "usage"} <= set(names)
    ids = [tuple(map(int, (identity or "0-0").split("-"))) for identity, _, _ in found]
    assert ids == sorted(ids) and len(set(ids)) == len(ids)
    completed = next(data for _, name, data in found if name == "message.completed")
    stored = served.get(url).json()["data"][0]
    assert (stored["id"], stored["answer"]) == (completed["id"], completed["answer"])


def test_closing_the_stream_cancels_the_answer(served: httpx.Client, tools: Tools, twin: FileTwin) -> None:
    session = session_over(served, read_book(served, tools)["id"])
    url = f"/v1/sessions/{session['id']}/messages"
    slow = FileTwin(twin.folder, delay=0.5)
    tools.model_of = lambda tenant: slow
    with Answering(tools):
        with served.stream("POST", url, json=QUESTION, headers=SSE) as reply:
            for _, name, data in frames(reply.iter_lines()):
                if name == "message.created":
                    job = data["job_id"]
                    break
        closed = time.monotonic()
        while served.get(f"/v1/jobs/{job}").json()["status"] != "cancelled":
            assert time.monotonic() - closed < 5
            time.sleep(0.05)
    assert served.get(f"/v1/sessions/{session['id']}").json()["head"] == session["id"]


def test_a_question_cancelled_by_somebody_else_is_a_conflict_not_a_hang(
    served: httpx.Client, tools: Tools, twin: FileTwin
) -> None:
    session = session_over(served, read_book(served, tools)["id"])
    slow = FileTwin(twin.folder, delay=0.5)
    tools.model_of = lambda tenant: slow
    with Answering(tools):
        threading.Timer(1.0, cancel_all, [str(served.base_url)]).start()
        reply = served.post(f"/v1/sessions/{session['id']}/messages", json=QUESTION)
    problem(reply, 409, "cancelled")


def cancel_all(base: str) -> None:
    for job in httpx.get(f"{base}/v1/jobs", params={"status": "running"}).json()["data"]:
        httpx.post(f"{base}/v1/jobs/{job['id']}/cancel")


def test_without_a_worker_a_question_ends_with_a_reason(served: httpx.Client, tools: Tools, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    from services.gateway import work

    monkeypatch.setattr(work, "NO_WORKER_SECONDS", 0.5)
    session = session_over(served, read_book(served, tools)["id"])
    reply = served.post(f"/v1/sessions/{session['id']}/messages", json=QUESTION)
    assert problem(reply, 503, "no_worker")["retryable"] is True
    assert served.get(f"/v1/sessions/{session['id']}/messages").json()["data"][0]["status"] == "cancelled"


def test_two_questions_at_once_one_waits(client: TestClient, tools: Tools) -> None:
    from services.library import sessions

    session = session_over(client, read_book(client, tools)["id"])
    with tools.database.write() as db:
        sessions.add_turn(db, "default", session["id"], "first", None)
    problem(client.post(f"/v1/sessions/{session['id']}/messages", json=QUESTION), 409, "session_busy")


def test_a_session_can_stop_at_a_chapter(client: TestClient, tools: Tools) -> None:
    book = read_book(client, tools)
    made = client.post("/v1/sessions", json={"source_ids": [book["id"]], "until_chapter": 0})
    assert made.status_code == 201 and made.json()["until"] == BOOK.index("CHAPTER II")
    for body in (
        {"source_ids": [book["id"]], "until_chapter": 9},
        {"source_ids": [book["id"]] * 2, "until_chapter": 0},
    ):
        problem(client.post("/v1/sessions", json=body), 422, "invalid_input")
    waiting = {"source_ids": [upload(client)["id"]], "until_chapter": 0}
    problem(client.post("/v1/sessions", json=waiting), 409, "not_ready")
