"""Documents and repositories over HTTP."""

import io
import zipfile
from typing import Any

import pytest
from fastapi.testclient import TestClient

from services.settings import Settings
from services.worker.run import Tools
from tests.fakes import FileTwin
from tests.gateway.conftest import BOOK
from tests.gateway.helpers import read_book, upload, work


def problem(reply: Any, status: int, code: str) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    body = reply.json()
    assert {"type", "title", "status", "detail", "instance", "code", "request_id", "retryable", "errors"} <= body.keys()
    assert (body["status"], body["code"]) == (status, code)
    assert body["request_id"] == reply.headers["x-request-id"]
    return dict(body)


def archive(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as bundle:
        for name, text in files.items():
            bundle.writestr(name, text)
    return out.getvalue()


def test_an_upload_is_accepted_with_its_job_and_becomes_ready(client: TestClient, tools: Tools) -> None:
    reply = client.post("/v1/documents", files={"file": ("book.txt", BOOK.encode())})
    made = reply.json()
    assert reply.status_code == 202 and reply.headers["location"] == f"/v1/jobs/{made['job_id']}"
    assert (made["kind"], made["status"], made["title"]) == ("document", "queued", "book.txt")
    work(tools, made["job_id"])
    found = client.get(f"/v1/documents/{made['id']}").json()
    assert found["status"] == "ready" and found["tokens"] and len(found["outline"]) == 3
    assert client.get("/v1/documents").json()["data"][0]["id"] == made["id"]


def test_text_comes_back_by_character(client: TestClient, tools: Tools) -> None:
    book = read_book(client, tools)
    start = BOOK.index("Mirabel")
    reply = client.get(f"/v1/documents/{book['id']}/text", params={"from": start, "to": start + 7})
    assert reply.json() == {"text": "Mirabel", "from": start, "to": start + 7, "characters": len(BOOK)}
    problem(client.get(f"/v1/documents/{book['id']}/text", params={"from": 9, "to": 3}), 422, "bad_range")


def test_summaries_quote_the_text_and_can_be_made_anew(client: TestClient, tools: Tools) -> None:
    book = read_book(client, tools)
    url = f"/v1/documents/{book['id']}/summaries"
    found = client.get(url).json()
    assert found["status"] == "ready" and len(found["chapters"]) == 3 and found["whole"]["text"]
    for quote in found["whole"]["quotes"]:
        assert BOOK[slice(*quote["char"])] == quote["text"]
    again = client.post(url)
    assert again.status_code == 202 and again.json()["status"] == "queued" and again.json()["chapters"] == []
    assert client.post(url).json()["job_id"] == again.json()["job_id"] != found["job_id"]
    work(tools, again.json()["job_id"])
    assert client.get(url).json()["status"] == "ready"


def test_deleting_a_document_takes_its_reading_and_bytes(
    client: TestClient, tools: Tools, twin: FileTwin, settings: Settings
) -> None:
    from services.worker.bin import empty_bin

    book = read_book(client, tools)
    assert client.delete(f"/v1/documents/{book['id']}").status_code == 204
    problem(client.get(f"/v1/documents/{book['id']}"), 404, "not_found")
    problem(client.delete(f"/v1/documents/{book['id']}"), 404, "not_found")
    assert empty_bin(tools) == 1 and book["id"] not in twin.path.read_text()
    assert not [path for path in settings.blob_dir.iterdir() if path.name[0] != "."]
    assert not list(settings.index_dir.glob(f"{book['id']}*"))


def test_deleting_a_document_that_waits_takes_its_job_with_it(client: TestClient, tools: Tools) -> None:
    made = upload(client)
    assert client.delete(f"/v1/documents/{made['id']}").status_code == 204
    problem(client.get(f"/v1/jobs/{made['job_id']}"), 404, "not_found")
    work(tools, made["job_id"])
    problem(client.get(f"/v1/documents/{made['id']}"), 404, "not_found")


def test_search_says_where_it_found_it(client: TestClient, tools: Tools) -> None:
    book = read_book(client, tools)
    body = {"query": "who kept the ledger", "source_ids": [book["id"]], "limit": 2}
    hit = client.post("/v1/search", json=body).json()["data"][0]
    assert "Mirabel" in hit["text"] and BOOK[slice(*hit["char"])] == hit["text"] and hit["source_id"] == book["id"]


def test_a_repository_has_files_and_symbols(client: TestClient, tools: Tools) -> None:
    files = {"app/main.py": "def start_engine(x):\n    return x\n", "README.md": "# Boat\n\nIt floats on water.\n"}
    reply = client.post("/v1/repositories", files={"file": ("boat.zip", archive(files))})
    assert reply.status_code == 202, reply.text
    made = reply.json()
    work(tools, made["job_id"])
    url = f"/v1/repositories/{made['id']}"
    assert client.get(url).json()["status"] == "ready", client.get(url).json()
    assert sorted(f["path"] for f in client.get(f"{url}/files").json()["data"]) == sorted(files)
    assert client.get(f"{url}/files/app/main.py").json()["text"] == files["app/main.py"]
    problem(client.get(f"{url}/files/../../etc/passwd"), 404, "not_found")
    problem(client.get(f"{url}/files/app/none.py"), 404, "not_found")
    symbol = client.get(f"{url}/symbols", params={"q": "engine"}).json()["data"][0]
    assert (symbol["name"], symbol["path"], symbol["line"]) == ("start_engine", "app/main.py", [1, 2])


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://github.com/a/b", "invalid_input"),
        ("https://evil.example/a/b", "git_host_not_allowed"),
        ("https://user:secret@github.com/a/b", "git_host_not_allowed"),
        ("https://github.com@evil.example/a", "git_host_not_allowed"),
        ("file:///etc", "invalid_input"),
    ],
)
def test_repositories_are_cloned_over_https_from_known_hosts_only(client: TestClient, url: str, code: str) -> None:
    body = problem(client.post("/v1/repositories", json={"url": url}), 422, code)
    assert "secret" not in str(body) or "user:secret" not in body["detail"]


def test_a_url_becomes_a_repository_pinned_to_a_revision(client: TestClient) -> None:
    made = client.post("/v1/repositories", json={"url": "https://github.com/psf/requests.git", "revision": "v2"}).json()
    assert (made["kind"], made["title"], made["revision"]) == ("repository", "psf/requests", "v2")
    problem(client.get(f"/v1/documents/{made['id']}"), 404, "not_found")


def test_hostile_uploads_are_refused_at_the_door(client: TestClient, settings: Settings) -> None:
    empty = client.post("/v1/documents", files={"file": ("empty.txt", b"")})
    assert problem(empty, 422, "empty_file")["errors"][0]["pointer"] == "/file"
    large = client.post("/v1/documents", files={"file": ("large.txt", b"x" * 2_000_000)})
    assert problem(large, 413, "too_large")["limit"] == 1_000_000
    slightly = client.post("/v1/documents", files={"file": ("large.txt", b"x" * 1_050_000)})
    problem(slightly, 413, "too_large")
    assert problem(client.post("/v1/documents"), 422, "invalid_input")["errors"]
    problem(client.post("/v1/repositories", files={"other": ("x", b"x")}), 422, "invalid_input")
    problem(
        client.post("/v1/repositories", content=b"{", headers={"content-type": "application/json"}),
        422,
        "invalid_input",
    )
    assert client.get("/v1/documents").json()["data"] == []
    assert [path.name for path in settings.blob_dir.iterdir() if path.name.startswith(".incoming")] == []


def test_a_body_without_a_declared_length_is_cut_off_when_it_is_too_long(client: TestClient) -> None:
    def endless() -> Any:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.txt"\r\n\r\n'
        for _ in range(40):
            yield b"x" * 50_000

    headers = {"content-type": "multipart/form-data; boundary=b"}
    problem(client.post("/v1/documents", content=endless(), headers=headers), 413, "too_large")


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "..\\..\\x.txt", "a\x00b.txt", "x" * 900 + ".txt", "\u202efdp.txt"]
)
def test_a_files_name_is_only_a_name(client: TestClient, name: str) -> None:
    made = upload(client, name=name)
    assert "/" not in made["filename"] and "\\" not in made["filename"] and len(made["filename"]) <= 255
    assert made["filename"].isprintable()


def test_a_file_of_the_wrong_kind_fails_with_a_problem(client: TestClient, tools: Tools) -> None:
    made = upload(client, b"MZ\x90\x00" + bytes(range(256)) * 40, "program.txt")
    work(tools, made["job_id"])
    found = client.get(f"/v1/documents/{made['id']}").json()
    assert found["status"] == "failed" and found["error"]["detail"] and found["error"]["status"] in (415, 422)
    assert client.get(f"/v1/jobs/{made['job_id']}").json()["error"]["code"] == found["error"]["code"]


def test_a_key_sent_again_gets_the_first_answer(client: TestClient) -> None:
    first = upload(client, **{"Idempotency-Key": "k1"})
    again = client.post("/v1/documents", files={"file": ("book.txt", BOOK.encode())}, headers={"Idempotency-Key": "k1"})
    assert again.status_code == 202 and again.headers["idempotency-replayed"] == "true"
    assert again.json() == first and again.headers["location"] == f"/v1/jobs/{first['job_id']}"
    other = client.post("/v1/documents", files={"file": ("book.txt", b"other")}, headers={"Idempotency-Key": "k1"})
    problem(other, 422, "idempotency_key_reused")
    assert len(client.get("/v1/documents").json()["data"]) == 1


def test_a_key_of_a_request_that_failed_is_free_again(client: TestClient) -> None:
    headers = {"Idempotency-Key": "k2"}
    problem(client.post("/v1/sessions", json={"source_ids": ["doc_no"]}, headers=headers), 404, "not_found")
    made = upload(client)
    ok = client.post("/v1/sessions", json={"source_ids": [made["id"]]}, headers=headers)
    assert ok.status_code == 201


def test_lists_come_in_pages(client: TestClient) -> None:
    made = [upload(client, b"text %d" % n)["id"] for n in range(3)]
    first = client.get("/v1/documents", params={"limit": 2}).json()
    rest = client.get("/v1/documents", params={"limit": 2, "after": first["next_cursor"]}).json()
    assert [d["id"] for d in first["data"] + rest["data"]] == made[::-1] and not rest["has_more"]
    problem(client.get("/v1/documents", params={"after": "nope"}), 422, "unknown_cursor")
    problem(client.get("/v1/documents", params={"limit": 1000}), 422, "invalid_input")
