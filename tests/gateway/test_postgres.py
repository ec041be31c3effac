"""The same gateway and worker on PostgreSQL."""

from fastapi.testclient import TestClient

from services.gateway.app import create_app
from services.library import migrate
from services.library.db import Database
from services.settings import Settings
from services.worker.tasks import make_tools
from tests.conftest import Postgres
from tests.fakes import FileTwin
from tests.gateway.helpers import Answering, read_book, session_over, upload
from tests.gateway.test_sources import archive, problem, work


def test_a_whole_journey_on_postgresql(settings: Settings, postgres: Postgres, twin: FileTwin) -> None:
    settings.database_url = postgres.new_database()
    migrate.upgrade(Database(settings.database_url).engine)
    tools = make_tools(settings, lambda tenant: twin)
    with TestClient(create_app(settings, lambda tenant: twin)) as client, Answering(tools):
        book = read_book(client, tools)
        made = client.post(
            "/v1/repositories", files={"file": ("a.zip", archive({"a.py": "def f():\n    pass\n"}))}
        ).json()
        work(tools, made["job_id"])
        assert client.get(f"/v1/repositories/{made['id']}/symbols", params={"q": "F"}).json()["data"]
        url = f"/v1/sessions/{session_over(client, book['id'])['id']}"
        first = client.post(f"{url}/messages", json={"content": "Who kept the ledger?"}).json()
        assert first["quotes"]
        client.post(f"{url}/bookmarks", json={"name": "here"})
        assert client.post(f"{url}/fork", json={"bookmark": "here"}).status_code == 201
        key = {"Idempotency-Key": "k"}
        assert upload(client, **key) == upload(client, **key)
        hits = client.post("/v1/search", json={"query": "ledger", "source_ids": [book["id"]]}).json()["data"]
        assert "ledger" in hits[0]["text"]
        page = client.get("/v1/documents", params={"limit": 1}).json()
        assert client.get("/v1/documents", params={"after": page["next_cursor"]}).json()["data"]
        assert client.delete(f"/v1/documents/{book['id']}").status_code == 204
        problem(client.get(f"/v1/documents/{book['id']}"), 404, "not_found")
    tools.database.dispose()
