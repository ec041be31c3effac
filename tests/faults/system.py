"""kill -9 of a worker or of the gateway, while a book is read and while a question is answered; over REST."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from services.local.rest import Json, Refused, Rest, server_events
from tests.e2e.conftest import ROOT, LiveSystem
from tests.faults.book import Broken
from tests.faults.fault import Fault
from tests.faults.world import Lab

BOOK = ROOT / "docs" / "samples" / "the-lamplighters-ledger.md"
CHARACTERS = 9_000
QUESTION = "How many lamps had Tannery Lane?"
END_SECONDS = 60.0
KEYS = {"victim": "key-of-the-victim", "control": "key-of-the-control"}


class System(LiveSystem):
    """The supervisor with the model that ships and two tenants; a lost worker is noticed soon."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.tenants = {name: Rest(self.base_url, key) for name, key in KEYS.items()}
        self.rest = self.tenants["control"]

    def _env(self) -> dict[str, str]:
        return super()._env() | {
            "SHIORI_API_KEY": ",".join(f"{name}:{key}" for name, key in KEYS.items()),
            "SHIORI_HEARTBEAT_SECONDS": "0.5",
            "SHIORI_WORKER_LOST_SECONDS": "2",
            "SHIORI_METRICS_ADDRESS": "",
        }


class KillService(Fault):
    """The victim's book and question are disturbed, the control's are not; both must get the same answer."""

    name, kills = "kill_service", 1

    def __init__(self, lab: Lab, dice: random.Random) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="shiori-system-"))
        self.system = System(self.folder / "var")
        self.system.start()

    def strike(self, dice: random.Random) -> Counter[str]:
        path = self._book(dice)
        victim, control = self.system.tenants["victim"], self.system.tenants["control"]
        expected = self._undisturbed(control, path)
        reading, process = dice.choice(
            [(True, "worker-background"), (True, "gateway"), (False, "worker-interactive"), (False, "gateway")]
        )
        kill = lambda: self.system.kill(process)  # noqa: E731
        source = self._read(victim, path, kill if reading else None, dice)
        found = self._ask(victim, source, None if reading else kill, dice)
        if said(found) != said(expected):
            raise Broken("wrong", f"after a kill of {process}: {said(found)}; undisturbed {said(expected)}")
        return Counter({f"{process} while {'reading' if reading else 'asked'}": 1})

    def _book(self, dice: random.Random) -> Path:
        """One that nobody has read yet."""
        path = self.folder / f"book-{dice.getrandbits(32):08x}.md"
        path.write_text(f"# Copy {path.stem}\n\n" + BOOK.read_text(encoding="utf-8")[:CHARACTERS])
        return path

    def _undisturbed(self, rest: Rest, path: Path) -> Json:
        job = rest.upload(path)
        self._end_of(rest, job["job_id"])
        return rest.ask(rest.session(job), QUESTION)

    def _read(self, rest: Rest, path: Path, kill: Callable[[], Any] | None, dice: random.Random) -> Json:
        source = rest.upload(path)
        if kill:
            time.sleep(dice.uniform(0.1, 2.0))
            kill()
        self._end_of(rest, source["job_id"])
        return source

    def _end_of(self, rest: Rest, job_id: str) -> None:
        job = patiently(lambda: (found := rest.job(job_id))["status"] in ("succeeded", "failed", "cancelled") and found)
        if job["status"] != "succeeded":
            raise Broken("lost", f"the reading ended as {job['status']}: {job.get('error')}")

    def _ask(self, rest: Rest, source: Json, kill: Callable[[], Any] | None, dice: random.Random) -> Json:
        session = rest.session(source)
        if kill is None:
            return rest.ask(session, QUESTION)
        path = f"/v1/sessions/{session['id']}/messages"
        headers = {"Accept": "text/event-stream"}
        with rest.http.stream("POST", path, json={"content": QUESTION}, headers=headers) as reply:
            events = server_events(reply.iter_lines())  # held: dropping it closes the stream
            next(event for _, event, _ in events if event == "message.created")
            time.sleep(dice.uniform(0.0, 0.4))
            kill()
            # Still inside: a client that closes its stream cancels the answer.
            return patiently(lambda: [m for m in rest.call("GET", path)["data"] if m["status"] == "succeeded"])[0]

    def stop(self) -> None:
        self.system.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def patiently(question: Callable[[], Any]) -> Any:
    """Its first true answer; a gateway that is away is asked again."""
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        try:
            if found := question():
                return found
        except (httpx.HTTPError, Refused):
            pass
        time.sleep(0.1)
    raise Broken("hang", f"nothing ended within {END_SECONDS:.0f} s")


def said(message: Json) -> tuple[Any, ...]:
    """What an answer says and stands on; not how long it took."""
    return message["answer"], message["answered"], [(quote["text"], quote["char"]) for quote in message["quotes"]]
