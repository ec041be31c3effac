from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from services.agent import weighing
from tests.agent.weights import plain_weights

settings.register_profile("agent", deadline=None)  # a busy machine is not a failure
settings.load_profile("agent")


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Answers are weighed by tests/agent/weights.py."""
    plain_weights(monkeypatch, tmp_path)
    yield
    weighing.learned.cache_clear()
