"""Weights a reader can reckon with, in place of the learned ones."""

import json
from pathlib import Path

import pytest

from services.agent import weighing

RIGHT = {"support": 4.0, "odds": 0.5}
THERE = {"one": -3.5, "support": 4.0, "odds": 1.0}
SURE = 3.0  # the twin's odds are 2.94 for what it says, as much below 0 for what it is made to say


def plain_weights(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    all_of = lambda some: dict.fromkeys(weighing.SEEN, 0.0) | some  # noqa: E731
    made = {"weights": {"right": all_of(RIGHT), "there": all_of(THERE)}, "sure": SURE}
    path = folder / "answering.json"
    path.write_text(json.dumps(made))
    monkeypatch.setattr(weighing, "WEIGHTS", path)
    weighing.learned.cache_clear()
