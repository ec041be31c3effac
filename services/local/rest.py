"""The REST API as any client would use it: nothing here knows more than docs/api.md says."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

Json = dict[str, Any]
ENDED = ("succeeded", "failed", "cancelled")
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


class Refused(Exception):
    """What the server said was wrong."""


class Rest:
    def __init__(self, url: str, key: str = "") -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=httpx.Timeout(10, read=630))

    def call(self, method: str, path: str, **arguments: Any) -> Json:
        reply = self.http.request(method, path, **arguments)
        if reply.is_error:
            raise Refused(_problem(reply))
        body: Json = reply.json() if reply.content else {}
        return body

    def ready(self) -> bool:
        try:
            return self.http.get("/readyz", timeout=5).is_success
        except httpx.HTTPError:
            return False

    # ---- sources -------------------------------------------------------------------------------------------------

    def upload(self, path: Path, name: str | None = None) -> Json:
        name = name or path.name
        with path.open("rb") as file:
            return self.call("POST", f"/v1/{collection(name)}", files={"file": (name, file)})

    def find(self, name: str, sha256: str) -> Json | None:
        """A source with just these bytes that has been read already."""
        listed = self.call("GET", f"/v1/{collection(name)}", params={"limit": 100})["data"]
        return next((s for s in listed if s["sha256"] == sha256 and s["status"] == "ready"), None)

    def source(self, source: Json) -> Json:
        return self.call("GET", self._path(source))

    def summaries(self, source: Json) -> Json:
        return self.call("GET", f"{self._path(source)}/summaries")

    def summarise(self, source: Json) -> Json:
        return self.call("POST", f"{self._path(source)}/summaries")

    def _path(self, source: Json) -> str:
        return f"/v1/{'repositories' if source['kind'] == 'repository' else 'documents'}/{source['id']}"

    # ---- jobs ----------------------------------------------------------------------------------------------------

    def job(self, job_id: str, wait: float = 0) -> Json:
        return self.call("GET", f"/v1/jobs/{job_id}", params={"wait": wait} if wait else {})

    def follow(self, job_id: str) -> Iterator[tuple[str, Json]]:
        """The job's events to its end. A lost line is taken up after the last event seen."""
        last = ""
        while True:
            try:
                for identity, event, data in self._events(f"/v1/jobs/{job_id}/events", last):
                    last = identity or last
                    yield event, data
            except httpx.HTTPError:
                time.sleep(0.5)
            if self.job(job_id)["status"] in ENDED:
                return

    def _events(self, path: str, after: str) -> Iterator[tuple[str, str, Json]]:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": after} if after else {})}
        with self.http.stream("GET", path, headers=headers, timeout=60) as reply:
            yield from server_events(reply.iter_lines())

    # ---- sessions ------------------------------------------------------------------------------------------------

    def session(self, source: Json) -> Json:
        return self.call("POST", "/v1/sessions", json={"source_ids": [source["id"]]})

    def ask(self, session: Json, question: str) -> Json:
        return self.call("POST", f"/v1/sessions/{session['id']}/messages", json={"content": question})


def collection(name: str) -> str:
    return "repositories" if name.lower().endswith(ARCHIVES) else "documents"


def server_events(lines: Iterator[str]) -> Iterator[tuple[str, str, Json]]:
    """(id, event, data) from the lines of a stream."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if line and name:
            fields[name] = value.removeprefix(" ")
        elif not line and "data" in fields:
            yield fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"])
            fields = {}


def _problem(reply: httpx.Response) -> str:
    try:
        body = reply.json()
        return f"{body.get('title', reply.status_code)}: {body.get('detail', '')}"
    except ValueError:
        return f"{reply.request.method} {reply.request.url.path} answers {reply.status_code}"
