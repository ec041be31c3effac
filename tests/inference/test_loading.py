"""What whoever starts the engine says and sees: sizes; a bar or lines while weights come; one line when it cannot."""

import io
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from engine.memory import AUTO
from services.inference import loading
from services.inference.service import fingerprint
from services.inference.settings import InferenceSettings
from services.inference.text import load_tokenizer


def test_a_line_every_few_seconds_with_rate_and_time_left():
    clock = iter([100.0, 101.0, 105.0, 107.0, 110.0])
    with capture_logs() as logs:
        lines = loading.Lines(lambda: next(clock))
        for done in (1, 20, 30, 45):
            lines.heard(done * 10**9, 98 * 10**9)
    for line in logs:
        del line["log_level"]
    assert logs == [
        {"event": "loading_weights", "gb": 20.0, "of_gb": 98.0, "gb_per_s": 4.0, "seconds_left": 20},
        {"event": "loading_weights", "gb": 45.0, "of_gb": 98.0, "gb_per_s": 4.5, "seconds_left": 12},
    ]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_on_a_terminal(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with capture_logs() as logs, loading.shown() as progress:
        progress(49 * 10**9, 98 * 10**9)
    assert "49.0/98.0 GB" in screen.getvalue() and logs == []


def test_what_does_not_fit_is_one_line_in_the_log(tmp_path):
    """The whole process, really started; it ends before it looks for Redis."""
    changes = {"ADDRESS": "127.0.0.1:0", "TOKENS": str(10**12), "THREADS": "1"}
    environment = os.environ | {f"SHIORI_ENGINE_{name}": value for name, value in changes.items()}
    environment |= {"SHIORI_DATA_DIR": str(tmp_path), "SHIORI_LOG_FORMAT": "json"}
    done = subprocess.run(
        [sys.executable, "-m", "services.inference"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    why = next(line["why"] for line in lines if line["event"] == "cannot_start")
    assert re.search(r"1,000,000,000,000 tokens\) need [\d,.]+ GB; [\d,.]+ GB are free on cpu", why)


def test_the_same_weights_under_another_config_are_another_model(model_dir, tmp_path):
    same, bounded = (shutil.copytree(model_dir, tmp_path / name) for name in ("same", "bounded"))
    fields = json.loads((model_dir / "config.json").read_text())
    fields["linear_attn_config"]["gate_lower_bound"] = -5.0
    (bounded / "config.json").write_text(json.dumps(fields))
    tokenizer = load_tokenizer(model_dir, 512)
    names = [fingerprint(folder, tokenizer, {}) for folder in (model_dir, same, bounded)]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, (16, 262_144)),
        ({"ENGINE_DEVICE": "cuda"}, (AUTO, AUTO)),
        ({"ENGINE_DEVICE": "cuda", "ENGINE_TOKENS": "4096"}, (AUTO, 4096)),
        ({"ENGINE_TOKENS": "auto", "ENGINE_SLOTS": "8"}, (8, AUTO)),
        ({"ENGINE_TOKENS": ""}, (16, 262_144)),
    ],
)
def test_settings_say_auto_or_a_number(monkeypatch, environment, expected):
    for name in ("ENGINE_DEVICE", "ENGINE_TOKENS", "ENGINE_SLOTS"):
        monkeypatch.delenv(f"SHIORI_{name}", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(f"SHIORI_{name}", value)
    settings = InferenceSettings.from_env()
    assert (settings.slots, settings.tokens) == expected
