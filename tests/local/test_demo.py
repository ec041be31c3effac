import argparse
import io
import tarfile
from pathlib import Path

import pytest
from rich.console import Console

from services.local import __main__ as command
from services.local import archive, demo, system
from services.local.rest import server_events
from services.local.show import Bar, Names, Screen
from services.settings import Settings


def test_events_are_parsed_and_comments_skipped() -> None:
    lines = [": hello", "", "id: 1-0", "event: progress", 'data: {"done": 1}', "", "event: done", "data: {}", ""]
    assert list(server_events(iter(lines))) == [("1-0", "progress", {"done": 1}), ("", "done", {})]


def test_the_own_source_is_the_same_archive_each_time(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = archive.own_source(tmp_path / "a"), archive.own_source(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as packed:
        names = packed.getnames()
    assert "shiori/services/agent/quotes.py" in names
    assert all(name.endswith(".py") for name in names)


def test_the_sample_has_three_facts_and_one_thing_it_does_not_say() -> None:
    answers = [fact["answer"] for fact in demo.sample_facts()]
    assert all(answers[:3]) and answers[3:] == [None]
    assert demo.sample().name == "the-lamplighters-ledger.md"


def test_a_place_is_named_as_a_person_would() -> None:
    names = Names({"outline": [{"title": "Chapter 1"}]})
    quote = {"chapter": 0, "line": [3, 4], "char": [10, 1200], "page": 7}
    assert names.of(quote) == "Chapter 1, page 7, lines 3–4, characters 10–1,200"
    assert names.of({"path": "a/b.py", "line": [12, 30], "char": [0, 9]}) == "a/b.py:12"


def test_progress_without_a_terminal_is_plain_lines() -> None:
    out = io.StringIO()
    step = {"phase": "reading", "title": "One", "done": 512, "total": 9000, "rate": 250.0, "eta_s": 34.0}
    Bar(Screen(Console(file=out))).follow([("progress", step), ("done", {})])
    assert " ".join(out.getvalue().split()) == "reading: One 512 of 9,000, 250 tokens/s, 34 s to go"


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="there is no file"):
        command._file("/no/such/book.epub")


def test_somebody_elses_redis_is_used_and_none_started(tmp_path: Path) -> None:
    plan = system.everything(Settings(data_dir=tmp_path), {"SHIORI_REDIS_URL": "redis://elsewhere:6379/0"})
    assert plan.store is None
    assert plan.env["SHIORI_REDIS_URL"] == "redis://elsewhere:6379/0"


def test_a_taken_redis_port_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.local.ports.is_free", lambda port, host="127.0.0.1": False)
    plan = system.everything(Settings(data_dir=tmp_path), {})
    assert plan.store is not None and plan.store.port != system.REDIS_PORT
    assert plan.env["SHIORI_REDIS_URL"] == f"redis://127.0.0.1:{plan.store.port}/0"


def test_every_process_gets_the_folders_it_needs(tmp_path: Path) -> None:
    plan = system.everything(Settings(data_dir=tmp_path), {})
    assert [spec.name for spec in plan.services] == ["inference", "worker-interactive", "worker-background", "gateway"]
    for spec in plan.services:
        assert spec.env["SHIORI_DATABASE_URL"] == f"sqlite:///{tmp_path}/shiori.db"
        assert spec.env["OMP_WAIT_POLICY"] == "PASSIVE"
