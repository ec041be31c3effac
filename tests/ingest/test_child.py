"""A parser in a child: same result, and a death that does not spread."""

import os
import time
from pathlib import Path

import pytest

from services.ingest import wire
from services.ingest.child import parse_in_child
from services.ingest.document import parse_document
from services.ingest.repository import parse_repository
from services.ingest.types import Checkout, IngestError, Limits
from tests.ingest.makers import tar_bytes


def sleeps(seconds: float) -> None:
    time.sleep(seconds)


def spins() -> None:
    while True:
        pass


def eats(megabytes: int) -> int:
    return len(bytearray(megabytes << 20))


def dies() -> None:
    os.abort()


def leaks_environment() -> list[str]:
    return sorted(os.environ)


def raises() -> None:
    raise KeyError("odd")


def test_results_are_those_of_a_direct_call(tmp_path: Path) -> None:
    book, repo = tmp_path / "a.md", tmp_path / "r.tgz"
    book.write_text("# One\n\nwörds 😀\n\n# Two\n\nmore\n\n## Three\n\nwords\n", "utf-8")
    repo.write_bytes(tar_bytes({"d/a.py": "def f():\n    return 1\n", "d/b.png": b"\x89PNG"}))
    for fn, path in ((parse_document, book), (parse_repository, repo)):
        assert parse_in_child(fn, path, path.name, Limits(), seconds=60, memory_mb=1024) == fn(path, path.name)


@pytest.mark.parametrize(
    ("fn", "args", "seconds", "code"),
    [
        (sleeps, (30,), 1, "timeout"),
        (eats, (4000,), 60, "out_of_memory"),
        (dies, (), 60, "parser_crashed"),
        (raises, (), 60, "parser_failed"),
    ],
)
def test_death_has_a_name(fn: object, args: tuple[int, ...], seconds: float, code: str) -> None:
    began = time.monotonic()
    with pytest.raises(IngestError) as caught:
        parse_in_child(fn, *args, seconds=seconds, memory_mb=512)  # type: ignore[arg-type]
    assert caught.value.code == code and len(caught.value.message) > 30
    assert time.monotonic() - began < 50


def test_errors_pass_through(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"")
    with pytest.raises(IngestError) as caught:
        parse_in_child(parse_document, tmp_path / "a.txt", "mine.txt", seconds=60, memory_mb=512)
    assert caught.value.code == "empty" and "mine.txt" in caught.value.message


def test_cancel() -> None:
    began = time.monotonic()
    with pytest.raises(IngestError) as caught:
        parse_in_child(spins, seconds=60, memory_mb=512, cancelled=lambda: time.monotonic() - began > 0.5)
    assert caught.value.code == "cancelled" and time.monotonic() - began < 25


def test_the_child_sees_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIORI_API_KEY", "secret")
    assert "SHIORI_API_KEY" not in parse_in_child(leaks_environment, seconds=60, memory_mb=512)


def test_wire_knows_the_other_types() -> None:
    for value in (Checkout("p", "u", "r"), Limits(members=3), Path("/x"), [1, "a", None, 2.5]):
        assert wire.decode(wire.encode(value)) == value
