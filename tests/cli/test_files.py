"""Readings as files, by the command against a real engine: taken over whole, or refused whole."""

import json
from pathlib import Path

import pytest

from tests.cli.system import Start, System, flip


@pytest.fixture
def exported(system: System, tmp_path: Path) -> Path:
    file = tmp_path / "book.reading"
    told = system.shiori("export", "book", "-o", str(file))
    assert told.exit_code == 0, told.output
    return file


def test_an_exported_reading_answers_the_same_under_another_name(system: System, exported: Path) -> None:
    expected, position = system.answer()[0], system.client.describe_session("book").head.position
    system.client.delete_session("book")
    told = system.shiori("import", str(exported), "--session", "again")
    assert told.exit_code == 0, told.output
    assert f"again: {position:,} tokens" in told.stdout
    system.restart()
    text, resumed, recomputed = system.answer("again")
    assert (text, recomputed) == (expected, False)
    assert resumed == position


def test_bookmarks_travel_with_the_reading(system: System, exported: Path) -> None:
    """A chapter's bookmark is what a session about that chapter begins at."""
    assert system.shiori("import", str(exported), "--session", "again").exit_code == 0
    assert [mark.name for mark in system.client.describe_session("again").bookmarks] == ["start", "end"]


def test_nothing_of_a_document_stands_in_the_file(system: System, exported: Path) -> None:
    assert b"thirteen" not in exported.read_bytes()
    assert exported.stat().st_size > 1000


@pytest.mark.parametrize("where", [0, 0.01, 0.25, 0.5, 0.75, 1])
def test_a_file_with_one_flipped_bit_is_refused_whole(system: System, exported: Path, where: float) -> None:
    flip(exported, int(where * (exported.stat().st_size - 1)))
    before = set(system.redis.keys("*"))
    told = system.shiori("import", str(exported), "--session", "again")
    assert told.exit_code != 0
    assert "Traceback" not in told.output
    assert {key for key in set(system.redis.keys("*")) - before if b"again" in key or b":blk:" in key} == set()


def test_a_file_that_ends_too_early_is_refused(system: System, exported: Path) -> None:
    exported.write_bytes(exported.read_bytes()[:-40])
    assert system.shiori("import", str(exported), "--session", "again").exit_code != 0
    assert [session.session_id for session in system.client.list_sessions()] == ["book"]


def test_a_name_that_is_taken_is_refused(system: System, exported: Path) -> None:
    told = system.shiori("import", str(exported), "--session", "book")
    assert told.exit_code == 2
    assert "already_exists" in told.stderr


def test_another_models_file_is_refused_and_both_are_named(
    system: System, exported: Path, start: Start, other_model: Path
) -> None:
    ours = system.client.describe().fingerprint
    system.stop()
    other = start(other_model)
    told = other.shiori("import", str(exported), "--session", "again")
    assert told.exit_code == 2
    assert ours[:12] in told.stderr
    assert other.client.describe().fingerprint[:12] in told.stderr


@pytest.fixture
def other_model(model_dir: Path, tmp_path: Path) -> Path:
    """Another random model of the same shape, with the same tokenizer."""
    from engine.testing import save_random_checkpoint

    fields = json.loads((model_dir / "config.json").read_text())
    (tmp_path / "other").mkdir()
    folder = save_random_checkpoint(tmp_path / "other", fields, seed=7)
    (folder / "tokenizer.json").write_bytes((model_dir / "tokenizer.json").read_bytes())
    return folder
