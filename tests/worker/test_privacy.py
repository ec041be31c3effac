"""Deleting a source leaves nothing that saw it: rows, files, Redis and the vault are scanned, letter for letter."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from services.inference.client import InferenceClient
from services.inference.text import load_tokenizer
from services.library.db import Database
from services.settings import Settings
from tests.inference.conftest import model_dir  # noqa: F401  a fixture
from tests.worker.test_whole import Whole, until

MARKER, FILE = "quokkaberry", "wombatsecret.txt"
BOOK = "\n\n".join(f"CHAPTER {n} The {MARKER}\n\nOsric Vane ate {n} {MARKER} cakes by the lamp." for n in range(1, 4))
Traces = set[str]


@pytest.fixture
def whole(settings: Settings, model_dir: Path) -> Iterator[Whole]:  # noqa: F811
    made = Whole(settings, model_dir, SHIORI_SWEEP_SECONDS="1")
    until(made.ready)
    yield made
    made.kill()


class Scan:
    """Looks everywhere for the marker, its token ids and the file's name."""

    def __init__(self, settings: Settings, model: Path) -> None:
        self.database = Database(settings.database_url)
        self.folder, self.redis = settings.data_dir, redis.Redis.from_url(settings.redis_url)
        ids = load_tokenizer(model, 1 << 30).encode(f" {MARKER}")
        packed = b"".join(token.to_bytes(4, "little") for token in ids)
        self.wanted = (MARKER.encode(), FILE.encode(), packed)

    def traces(self) -> Traces:
        return {*self.in_rows(), *self.in_files(), *self.in_redis()}

    def holds(self, value: Any) -> bool:
        raw = value if isinstance(value, bytes) else str(value).encode()
        return any(words in raw for words in self.wanted)

    def in_rows(self) -> Iterator[str]:
        tables = sa.MetaData()
        tables.reflect(self.database.engine)
        with self.database.read() as db:
            for table in tables.sorted_tables:
                if any(self.holds(tuple(row)) for row in db.execute(sa.select(table))):
                    yield f"table {table.name}"

    def in_files(self) -> Iterator[str]:
        for path in self.folder.rglob("*"):
            if self.holds(path.name) or (path.is_file() and self.holds(path.read_bytes())):
                yield f"file {path.relative_to(self.folder).parts[0]}"

    def in_redis(self) -> Iterator[str]:
        for key in self.redis.scan_iter(count=1000):
            if self.holds(key) or self.holds(self.value(key)):
                yield f"redis {key.decode().rsplit(':', 1)[0]}"

    def value(self, key: bytes) -> bytes:
        """As it was written: DUMP would give it compressed."""
        read = {
            b"string": self.redis.get, b"hash": self.redis.hgetall, b"set": self.redis.smembers,
            b"list": lambda name: self.redis.lrange(name, 0, -1), b"stream": self.redis.xrange,
            b"zset": lambda name: self.redis.zrange(name, 0, -1, withscores=True),
            b"none": lambda name: "",  # Celery took it away since it was listed
        }  # fmt: skip
        found = read[self.redis.type(key)](key)  # type: ignore[index, operator]
        return found if isinstance(found, bytes) else repr(found).encode()

    def vault(self) -> Traces:
        """What the vault keeps of the tenant that is not its key: sealed, so only its absence proves anything."""
        kinds = ("head", "marks", "hist", "man", "blk")
        keys = [key for kind in kinds for key in self.redis.scan_iter(f"shiori:default:{kind}:*")]
        cold = [path for kind in kinds for path in self.folder.glob(f"cold/default/{kind}/**/*") if path.is_file()]
        return {str(name) for name in (*keys, *cold)}


@pytest.mark.timeout(300)
def test_a_deleted_source_leaves_no_word_no_token_and_no_block(
    whole: Whole,
    settings: Settings,
    model_dir: Path,  # noqa: F811
) -> None:
    scan, http = Scan(settings, model_dir), whole.http
    headers = {"Idempotency-Key": "once"}
    book = http.post("/v1/documents", files={"file": (FILE, BOOK.encode())}, headers=headers).json()
    assert whole.ended(book["job_id"])["status"] == "succeeded"
    url = f"/v1/documents/{book['id']}"
    summaries = http.get(f"{url}/summaries").json()
    assert whole.ended(summaries["job_id"])["status"] == "succeeded"
    session = http.post("/v1/sessions", json={"source_ids": [book["id"]]}, headers={"Idempotency-Key": "two"}).json()
    first = whole.ask(session["id"], f"How many {MARKER} cakes?")
    assert first.status_code == 200, first.text
    http.post(f"/v1/sessions/{session['id']}/bookmarks", json={"name": f"the {MARKER}"})
    fork = http.post(f"/v1/sessions/{session['id']}/fork", json={}).json()
    assert whole.ask(fork["id"], f"Who ate the {MARKER}?").status_code == 200
    newer = http.post("/v1/documents", files={"file": (FILE, BOOK.encode())}, data={"previous": book["id"]}).json()
    assert whole.ended(newer["job_id"])["status"] == "succeeded"
    engine = InferenceClient(whole.engine_address)
    engine.fork_session(session["id"], f"{session['id']}.left-by-a-kill")

    before = scan.traces()
    assert {"table blocks", "table jobs", "table turns", "table summaries"} <= before
    assert {"file blobs", "redis shiori:events"} <= before and scan.vault()

    assert http.delete(f"/v1/documents/{newer['id']}").status_code == 204
    assert http.delete(url).status_code == 204
    assert http.get("/v1/documents").json()["data"] == http.get("/v1/sessions").json()["data"] == []
    until(lambda: not engine.list_sessions() and not scan.traces(), 60)
    until(lambda: not scan.vault(), 60)
    assert not list(settings.index_dir.iterdir())  # it holds stems, which no scan for a word would find
