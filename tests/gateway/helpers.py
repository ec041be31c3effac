"""What gateway tests do over HTTP, and the worker's part of it in this process."""

import threading
from typing import Any

from services.jobs import Kinds
from services.library import jobs as rows
from services.worker.perform import perform
from services.worker.run import Tools
from services.worker.tasks import WORK
from tests.gateway.conftest import BOOK


def work(tools: Tools, job_id: str) -> None:
    """What a worker does with a message."""
    with tools.database.read() as db:
        job = db.get(rows.Job, job_id)
    kind, subject = (Kinds(job.kind), job.subject) if job else (Kinds.ingest, "")  # deleted: nothing must happen
    perform(tools, job_id, lambda run: WORK[kind](run, subject))


def upload(client: Any, data: bytes = BOOK.encode(), name: str = "book.txt", **headers: str) -> dict[str, Any]:
    reply = client.post("/v1/documents", files={"file": (name, data, "text/plain")}, headers=headers)
    assert reply.status_code == 202, reply.text
    return dict(reply.json())


def read_book(client: Any, tools: Tools) -> dict[str, Any]:
    """A document that is ready, summaries included."""
    made = upload(client)
    work(tools, made["job_id"])
    found = client.get(f"/v1/documents/{made['id']}").json()
    assert found["status"] == "ready", found
    work(tools, client.get(f"/v1/documents/{made['id']}/summaries").json()["job_id"])
    return dict(found)


def session_over(client: Any, *source_ids: str) -> dict[str, Any]:
    return dict(client.post("/v1/sessions", json={"source_ids": list(source_ids)}).json())


class Answering:
    """`with Answering(tools):` a thread does every answer job that comes, like the interactive worker."""

    def __init__(self, tools: Tools) -> None:
        self.tools, self.end = tools, threading.Event()
        self.thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> "Answering":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end.set()
        self.thread.join(10)

    def _loop(self) -> None:
        while not self.end.wait(0.03):
            with self.tools.database.read() as db:
                waiting = db.scalars(rows.sa.select(rows.Job).where(rows.Job.status == "queued")).all()
            for job in waiting:
                if job.kind == Kinds.answer:
                    work(self.tools, job.id)


def frames(lines: Any) -> Any:
    """(id, event, data) of a stream's lines; comments as (None, "comment", text)."""
    import json

    current: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            yield None, "comment", line[1:].strip()
        elif line:
            name, _, value = line.partition(": ")
            current[name] = value
        elif current:
            yield current.get("id"), current["event"], json.loads(current["data"])
            current = {}
