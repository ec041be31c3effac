"""Twins of what lives in other processes."""

import fcntl
import json
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace as Reply
from typing import Any

from services import errors
from tests.agent.twin import Reading, Twin, shown


class FileTwin(Twin):
    """An engine kept in a file, so that several processes share it and a killed one loses nothing that was saved.

    It quotes the paragraph nearest to the question among what it has read. A file `down` beside it takes it away;
    `delay` is what a message of a reading takes.
    """

    def __init__(self, folder: Path, tenant: str = "default", delay: float = 0.0, room: int = 1_000_000) -> None:
        super().__init__(script=nearest_words)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path, self.delay, self.room = folder, folder / f"{tenant}.json", delay, room
        self.quota: int | None = None  # characters that all sessions together may hold

    def describe(self) -> Any:
        numbers = ("parameters", "grid_tokens", "page_tokens", "page_bytes", "snapshot_bytes")
        free = ("slots_total", "slots_free", "pages_total", "pages_free")
        self._up()
        plain = dict.fromkeys(numbers + free, 1)
        return Reply(
            model="twin", fingerprint="twin", device="cpu", special_tokens=["doc"], context_tokens=self.room, **plain
        )

    def described(self, session_id: str) -> Any:
        reading, found = self.named(session_id), super().described(session_id)
        marks = {name: Reading(reading.segments[:upto]).head() for name, upto in reading.bookmarks.items()}
        found.bookmarks = [Reply(name=name, head=head) for name, head in marks.items()]
        return found

    def describe_session(self, session_id: str) -> Any:
        with self._file():
            return self.described(session_id)

    def open_session(self, session_id: str) -> Any:
        with self._file(save=True):
            return super().open_session(session_id)

    def delete_session(self, session_id: str, later: bool = False) -> int:
        with self._file(save=True):
            return super().delete_session(session_id, later)

    def fork_session(self, session_id: str, new_session_id: str, bookmark: str = "") -> Any:
        with self._file(save=True):
            return super().fork_session(session_id, new_session_id, bookmark)

    def plan(self, session_id: str, segments: Iterable[Iterable[Any]]) -> Any:
        with self._file():
            return super().plan(session_id, segments)

    def list_sessions(self, limit: int = 100, after: str = "") -> list[Any]:
        with self._file():
            names = sorted(name for name in self.sessions if name > after)
            return [self.described(name) for name in names[:limit]]

    def bookmark_session(self, session_id: str, name: str) -> Any:
        with self._file(save=True):
            reading = self.named(session_id)
            reading.bookmarks[name] = len(reading.segments)

    def rewind_session(self, session_id: str, bookmark: str) -> Any:
        with self._file(save=True):
            reading = self.named(session_id)
            reading.segments = reading.segments[: reading.bookmarks[bookmark]]
            return self.described(session_id)

    def read(self, session_id: str, parts: Iterable[Any], **options: Any) -> Iterator[Any]:
        words = shown(parts)
        with self._file():
            position = self.named(session_id).head().position
            self._check_quota(len(words))
        for n in range(4):
            time.sleep(self.delay)
            self._up()
            yield Reply(position=position + len(words) * n // 4, durable_position=position, done=False)
        with self._file(save=True):
            self.reads = []
            messages = list(super().read(session_id, parts, **options))
        yield messages[-1]

    def generate(self, session_id: str, prompt: Iterable[Any], **options: Any) -> Iterator[Any]:
        with self._file():
            messages = list(super().generate(session_id, prompt, **options))
        for message in messages:
            time.sleep(self.delay)
            self._up()
            yield message

    def vault_report(self) -> Any:
        with self._file():
            used, tier = self._used(), {"name": "redis", "where": "redis://secret", "limit_bytes": 0}
            tiers = [Reply(blocks=len(self.sessions), bytes=used, **tier)]
            return Reply(tiers=tiers, sessions=len(self.sessions), cold_sessions=0, used_bytes=used,
                         quota_bytes=self.quota or 0)  # fmt: skip

    def _used(self) -> int:
        return sum(reading.head().position for reading in self.sessions.values())

    def _check_quota(self, more: int) -> None:
        if self.quota is not None and self._used() + more > self.quota:
            numbers = {"used_bytes": str(self._used()), "quota_bytes": str(self.quota)}
            raise errors.VaultFull("The quota is used up.", code="quota_exceeded", **numbers)

    def _up(self) -> None:
        if (self.folder / "down").exists():
            raise errors.EngineUnavailable("The engine is restarting.")

    @contextmanager
    def _file(self, save: bool = False) -> Iterator[None]:
        self._up()
        with open(self.path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            stored = json.loads(self.path.read_text()) if self.path.exists() else {}
            self.sessions = {name: Reading(*parts) for name, parts in stored.items()}
            yield
            if save:
                stored = {name: [one.segments, one.bookmarks] for name, one in self.sessions.items()}
                self.path.write_text(json.dumps(stored))


def nearest_words(context: str) -> list[str]:
    asked = re.findall(r"<\|(?:question|find|summary)\|>([^<]*)", context)
    passages = re.findall(r"(?:<\|doc\|>|<\|file\|>)([^<]*)", context)
    wanted = set(re.findall(r"\w+", asked[-1])) if asked else set()
    paragraphs = [p.strip() for passage in passages for p in passage.split("\n\n") if p.strip()]
    words = max(paragraphs, key=lambda p: len(wanted & set(re.findall(r"\w+", p))), default="")
    return ["<|quote|>", words[:60], "<|/quote|>", "<|end|>"] if words else ["<|none|>", "<|end|>"]
