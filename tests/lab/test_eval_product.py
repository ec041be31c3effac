"""The whole way in miniature: an engine's own process with the shipped model, a vault on a Redis of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.eval import squad
from lab.eval.asking import MODES, ask, each, reading
from lab.eval.product import product
from lab.eval.run import Run
from services import errors
from services.agent.model import special
from services.agent.prompts import question_turn

ROOT = Path(__file__).parents[2]
CONTEXT = "The lighthouse of Varn was built in 1871 by Ada Holm. Its lamp burns oil. The keeper lives in Osk."
QUESTIONS = [("When was the lighthouse built?", "1871"), ("Where does the keeper live?", "Osk")]


@pytest.fixture
def squad_json(tmp_path: Path) -> Path:
    qas = [{"question": q, "answers": [{"text": a, "answer_start": CONTEXT.index(a)}]} for q, a in QUESTIONS]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"data": [{"title": "Varn", "paragraphs": [{"context": CONTEXT, "qas": qas}]}]}))
    return path


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIORI_ENGINE_THREADS", "1")
    monkeypatch.setenv("SHIORI_ENGINE_TOKENS", "16384")


def children() -> set[int]:
    """Processes that this one started and that still run."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


def test_a_measure_through_the_product(squad_json: Path, one_thread: None) -> None:
    steps: list[int] = []
    before = children()
    with product() as client:
        run = Run(client, 10, squad=squad_json, total=steps.append, step=lambda: steps.append(1))
        figures = squad.measure(run)
        assert client.list_sessions() == []  # every session of the measure is gone
        with reading(client, CONTEXT) as name:
            prompt = [*question_turn(QUESTIONS[0][0], []), special("answer")]
            position = client.describe_session(name).head.position
            said = each(lambda mode: ask(client, name, prompt, mode), [*MODES, *MODES], lambda: None)
            assert [s.quotes for s in said[:2]] == [s.quotes for s in said[2:]]
            assert client.describe_session(name).head.position == position
        with pytest.raises(errors.NotFound):
            client.describe_session(name)
    assert steps == [1, 1]  # one paragraph, read once
    assert all(quote.strip() in CONTEXT for quote in said[1].quotes)
    for mode in MODES:
        assert figures[f"squad.mine.{mode}.f1"]["n"] == 2
    assert figures["squad.mine.copy.literal"]["value"] == 100.0
    assert children() == before  # neither the engine nor its Redis is left behind


def test_what_is_missing_is_said(tmp_path: Path, one_thread: None) -> None:
    command = [sys.executable, "-m", "lab.eval", "summaries", "--n", "3", "--out", str(tmp_path / "eval.json")]
    env = os.environ | {"SHIORI_PACK": str(tmp_path / "nowhere")}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1
    assert "not part of a clone" in done.stderr and "SHIORI_PACK" in done.stderr
    assert not (tmp_path / "eval.json").exists()


def test_an_unknown_family_is_refused() -> None:
    command = [sys.executable, "-m", "lab.eval", "quizzes"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2 and "no family quizzes" in done.stderr and "summaries" in done.stderr
