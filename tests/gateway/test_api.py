"""What holds for every route: problems, keys, tenants, headers, health, the schema."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from services import jobs
from services.gateway.app import create_app
from services.jobs import Queues
from services.settings import Settings
from services.worker.run import Tools
from tests.fakes import FileTwin
from tests.gateway.helpers import Answering, read_book, session_over
from tests.gateway.test_sources import archive, problem, work

KEYS = {"X-API-Key": "anna-key"}, {"X-API-Key": "bert-key"}
OPENAPI = create_app(Settings(_env_file=None)).openapi()  # type: ignore[call-arg]
ROUTES = [
    (method, path, operation)
    for path, methods in OPENAPI["paths"].items()
    for method, operation in methods.items()
    if method in ("get", "post", "put", "patch", "delete")
]
WITH_ID = [(method, path) for method, path, _ in ROUTES if "{" in path]
BODIES: dict[str, Any] = {
    "post /v1/sessions/{session_id}/messages": {"content": "Who?"},
    "post /v1/sessions/{session_id}/bookmarks": {"name": "here"},
    "post /v1/sessions/{session_id}/rewind": {"bookmark": "ledger"},
    "patch /v1/sessions/{session_id}": {"title": "mine"},
}


@pytest.fixture
def keyed(settings: Settings, twin: FileTwin) -> Iterator[TestClient]:
    """Two tenants: anna and bert."""
    from pydantic import SecretStr

    settings.api_key = SecretStr("anna:anna-key, bert:bert-key")
    with TestClient(create_app(settings, lambda tenant: twin)) as made:
        yield made


@pytest.fixture
def annas(keyed: TestClient, tools: Tools) -> dict[str, str]:
    """One of everything, anna's; the id for each path parameter."""
    keyed.headers.update(KEYS[0])
    book = read_book(keyed, tools)
    bundle = archive({"a.py": "def f():\n    pass\n"})
    repository = keyed.post("/v1/repositories", files={"file": ("a.zip", bundle)}).json()
    work(tools, repository["job_id"])
    session = session_over(keyed, book["id"])
    with Answering(tools):
        message = keyed.post(f"/v1/sessions/{session['id']}/messages", json={"content": "Who?"}).json()
    keyed.post(f"/v1/sessions/{session['id']}/bookmarks", json={"name": "ledger"})
    keyed.headers.pop("X-API-Key")
    ids = {"documents": book["id"], "repositories": repository["id"], "sessions": session["id"]}
    return {**ids, "jobs": message["job_id"], "path": "a.py"}


def filled(path: str, ids: dict[str, str]) -> str:
    noun = path.split("/")[2]
    return re.sub(r"\{(\w+)\}", lambda m: ids["path"] if m[1] == "path" else ids[noun], path)


def snapshot(client: TestClient, ids: dict[str, str]) -> list[Any]:
    """Everything of anna's that somebody else might have changed."""
    urls = [f"/v1/documents/{ids['documents']}", f"/v1/documents/{ids['documents']}/summaries"]
    urls += [f"/v1/repositories/{ids['repositories']}", f"/v1/jobs/{ids['jobs']}", "/v1/jobs", "/v1/sessions"]
    urls += [f"/v1/sessions/{ids['sessions']}/{below}" for below in ("messages", "bookmarks")]
    return [client.get(url, headers=KEYS[0]).json() for url in urls]


def test_another_tenants_ids_are_not_found_on_any_route_and_nothing_changes(
    keyed: TestClient, annas: dict[str, str]
) -> None:
    before = snapshot(keyed, annas)
    for method, path in WITH_ID:
        body = BODIES.get(f"{method} {path}")
        reply = keyed.request(method, filled(path, annas), headers=KEYS[1], json=body)
        assert reply.status_code == 404, (method, path, reply.status_code, reply.text)
        assert not any(secret in reply.text for secret in ("Osric", "Mirabel", "book.txt"))
    assert snapshot(keyed, annas) == before


def test_another_tenants_ids_in_a_body_are_not_found_either(keyed: TestClient, annas: dict[str, str]) -> None:
    sources = [annas["documents"]]
    problem(keyed.post("/v1/sessions", json={"source_ids": sources}, headers=KEYS[1]), 404, "not_found")
    search = {"query": "ledger", "source_ids": sources}
    problem(keyed.post("/v1/search", json=search, headers=KEYS[1]), 404, "not_found")
    assert keyed.post("/v1/search", json=search, headers=KEYS[0]).json()["data"]


def test_lists_show_ones_own_only(keyed: TestClient, annas: dict[str, str]) -> None:
    for noun in ("documents", "repositories", "sessions", "jobs"):
        assert keyed.get(f"/v1/{noun}", headers=KEYS[0]).json()["data"]
        assert keyed.get(f"/v1/{noun}", headers=KEYS[1]).json()["data"] == []
        problem(keyed.get(f"/v1/{noun}", params={"after": annas[noun]}, headers=KEYS[1]), 422, "unknown_cursor")


def test_idempotency_keys_belong_to_a_tenant(keyed: TestClient) -> None:
    made = []
    for key in KEYS:
        headers = {**key, "Idempotency-Key": "same"}
        made.append(keyed.post("/v1/documents", files={"file": ("a.txt", b"text")}, headers=headers).json()["id"])
    assert made[0] != made[1]


@pytest.mark.parametrize(("method", "path"), [(m, p) for m, p, _ in ROUTES if p.startswith("/v1")])
def test_every_route_asks_for_a_key(keyed: TestClient, method: str, path: str) -> None:
    url = re.sub(r"\{\w+\}", "x", path)
    for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic x"}):
        assert problem(keyed.request(method, url, headers=headers), 401, "unauthenticated")


def test_both_carriers_of_a_key_are_one(keyed: TestClient) -> None:
    for headers in ({"X-API-Key": "anna-key"}, {"Authorization": "Bearer anna-key"}):
        assert keyed.get("/v1/documents", headers=headers).status_code == 200
    problem(
        keyed.get("/v1/documents", headers={"Authorization": "Bearer x", "X-API-Key": "anna-key"}),
        401,
        "unauthenticated",
    )
    problem(keyed.get("/v1/documents", headers={"X-API-Key": "anna:anna-key"}), 401, "unauthenticated")


@pytest.mark.parametrize(
    ("method", "url", "status", "code"),
    [
        ("get", "/v1/nothing", 404, "not_found"),
        ("post", "/v1/nothing", 404, "not_found"),
        ("put", "/v1/documents", 405, "method_not_allowed"),
        ("get", "/v1/documents/doc_none", 404, "not_found"),
        ("get", "/v1/documents/%00", 422, "invalid_input"),
        ("get", "/v1/jobs?limit=x", 422, "invalid_input"),
        ("post", "/v1/sessions", 422, "invalid_input"),
    ],
)
def test_every_failure_is_a_problem(client: TestClient, method: str, url: str, status: int, code: str) -> None:
    body = problem(client.request(method, url), status, code)
    assert body["instance"] == url.split("?")[0].replace("%00", "\x00")


def test_validation_points_at_the_field(client: TestClient) -> None:
    body = problem(client.post("/v1/sessions", json={"source_ids": []}), 422, "invalid_input")
    assert body["errors"][0]["pointer"] == "/source_ids"
    long = {"source_ids": ["x"], "title": "y" * 500}
    assert problem(client.post("/v1/sessions", json=long), 422, "invalid_input")["errors"][0]["pointer"] == "/title"


def test_a_body_that_is_too_long_is_refused(client: TestClient) -> None:
    problem(client.post("/v1/search", content=b"x" * 1_100_000), 413, "too_large")


def test_a_bug_is_a_500_that_tells_nothing(settings: Settings) -> None:
    def broken(tenant: str) -> Any:
        raise RuntimeError("postgres://user:password@host")

    with TestClient(create_app(settings, broken)) as client:
        body = problem(client.get("/v1/model"), 500, "internal")
    assert "password" not in str(body)


def test_the_request_id_comes_back_and_a_strange_one_does_not(client: TestClient) -> None:
    assert client.get("/livez", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert client.get("/livez", headers={"X-Request-ID": "a b\tc"}).headers["x-request-id"].startswith("req_")


def test_pages_of_other_sites_change_nothing(client: TestClient) -> None:
    files = {"file": ("a.txt", b"x")}
    problem(client.post("/v1/documents", files=files, headers={"Origin": "https://evil.example"}), 403, "cross_origin")
    problem(client.post("/v1/documents", files=files, headers={"Origin": "null"}), 403, "cross_origin")
    assert client.post("/v1/documents", files=files, headers={"Origin": "http://testserver"}).status_code == 202


def test_security_headers_are_on_everything(client: TestClient) -> None:
    for url in ("/", "/v1/documents", "/v1/nothing", "/openapi.json"):
        headers = client.get(url).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert "default-src 'self'" in headers["content-security-policy"]


def test_readiness_names_what_fails(client: TestClient, tools: Tools) -> None:
    import time

    reply = client.get("/readyz")
    checks = {check["name"]: check for check in reply.json()["checks"]}
    assert reply.status_code == 503 and reply.json()["status"] == "degraded"
    assert checks["database"]["ok"] and checks["redis"]["ok"] and not checks["engine"]["ok"]
    assert set(checks) == {"database", "redis", "blobs", "engine", *(f"queue:{queue.value}" for queue in Queues)}
    assert "services.worker --queues ingest" in checks["queue:ingest"]["detail"]
    jobs.announce(tools.redis, "w1", [Queues.ingest], time.time())
    checks = {check["name"]: check["ok"] for check in client.get("/readyz").json()["checks"]}
    assert checks["queue:ingest"] and not checks["queue:interactive"]
    assert client.get("/livez").json() == {"status": "ok"}


def test_readiness_without_redis_or_with_an_old_database(settings: Settings, tmp_path: Path) -> None:
    settings.redis_url, settings.database_url = "redis://127.0.0.1:1/0", f"sqlite:///{tmp_path}/none.db"
    with TestClient(create_app(settings, lambda tenant: None)) as client:
        reply = client.get("/readyz")
    checks = {check["name"]: check for check in reply.json()["checks"]}
    assert reply.json()["status"] == "unready" and not checks["redis"]["ok"]
    assert "services.library migrate" in checks["database"]["detail"]


def test_the_model_is_described_and_its_absence_is_503(client: TestClient, twin: FileTwin) -> None:
    assert client.get("/v1/model").json()["model"] == "twin"
    (twin.folder / "down").touch()
    reply = client.get("/v1/model")
    assert problem(reply, 503, "engine_unavailable")["retryable"] and int(reply.headers["retry-after"]) >= 1


def test_the_web_page_is_served_with_a_fallback_and_nothing_beside_it(client: TestClient, settings: Settings) -> None:
    assert "not built" in client.get("/").text
    dist = settings.web_dir
    (dist / "assets").mkdir(parents=True)
    (dist / "index.html").write_text("<html>app</html>")
    (dist / "assets" / "a-1.js").write_text("1")
    (settings.data_dir / "secret.txt").write_text("secret")
    assert client.get("/").text == client.get("/documents/doc_x").text == "<html>app</html>"
    assert "immutable" in client.get("/assets/a-1.js").headers["cache-control"]
    for path in ("/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/assets/../../secret.txt", "/missing.js"):
        assert client.get(path).status_code == 404, path
    assert client.get("/problems/engine_full").status_code == 200


def test_the_schema_has_stable_names_and_problems() -> None:
    assert OPENAPI["openapi"].startswith("3.1")
    names = [operation["operationId"] for _, _, operation in ROUTES]
    assert len(set(names)) == len(names) and all(re.fullmatch(r"[a-z_]+", name) for name in names)
    for method, path, operation in ROUTES:
        if path.startswith("/v1"):
            assert operation["security"], (method, path)
            assert "application/problem+json" in operation["responses"]["422"]["content"], (method, path)
            assert "application/problem+json" in operation["responses"]["401"]["content"]
