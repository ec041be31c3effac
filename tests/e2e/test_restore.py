"""The restore is a test: docs/operations.md, "Backup" and "Restore", on a system that loses its machine."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.local.demo import sample_questions
from tests.e2e.conftest import ROOT, LiveSystem

pytestmark = pytest.mark.timeout(900)
Start = Callable[[str], LiveSystem]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Systems in folders of their own, on ports of their own."""
    started: list[LiveSystem] = []

    def begin(name: str) -> LiveSystem:
        started.append(LiveSystem(tmp_path / name))
        started[-1].start()
        return started[-1]

    yield begin
    for system in started:
        if system.process is not None and system.process.poll() is None:
            system.stop()


def shiori(system: LiveSystem, *words: str) -> str:
    """`shiori vault …` as an operator types it: the folder names the engine."""
    command = [sys.executable, "-m", "services.cli", "vault", *words]
    env = {**os.environ, "SHIORI_DATA_DIR": str(system.data_dir)}
    env.pop("SHIORI_ENGINE_ADDRESS", None)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def back_up(var: Path, to: Path) -> None:
    """While it runs: the database, the uploads, the cold tier, the key. Nothing of Redis."""
    to.mkdir()
    with sqlite3.connect(var / "shiori.db") as live, sqlite3.connect(to / "shiori.db") as copy:
        live.backup(copy)
    for folder in ("blobs", "cold"):
        shutil.copytree(var / folder, to / folder)
    shutil.copy2(var / "vault.key", to / "vault.key")


def words(message: dict[str, Any]) -> tuple[Any, ...]:
    return message["answer"], message["answered"], [(quote["text"], quote["char"]) for quote in message["quotes"]]


def test_a_backup_without_redis_answers_on_a_new_machine_and_reads_nothing_again(
    start: Start, sample_book: Path, tmp_path: Path
) -> None:
    first = start("first")
    book = first.read(sample_book)
    old_session, question = first.rest.session(book), sample_questions()[0]
    before = first.rest.ask(old_session, question)
    shiori(first, "tier-down")
    back_up(first.data_dir, tmp_path / "second")
    first.stop()
    shutil.rmtree(first.data_dir)

    second = start("second")
    recovered = [int(number) for number in re.findall(r"\d+", shiori(second, "recover"))]
    assert sum(recovered) >= 2  # the book and the conversation; perhaps a fork of a summary under way
    after = second.rest.ask(second.rest.session(book), question)
    assert words(after) == words(before)
    assert after["usage"]["resumed_tokens"] >= book["tokens"] > after["usage"]["read_tokens"]
    assert not after["usage"].get("recomputed")
    again = second.rest.ask(old_session, sample_questions()[1])
    assert again["usage"]["resumed_tokens"] > book["tokens"] > again["usage"]["read_tokens"]
    assert "0 damaged or missing" in shiori(second, "verify")
