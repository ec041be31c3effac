"""What every family is given, and where its figures go."""

import json
import os
import tempfile
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.scoring import best, exact, f1, mean
from services.inference.client import InferenceClient

Figures = dict[str, dict]


def nothing(*_: object) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Run:
    client: InferenceClient
    n: int
    seed: int = 1
    squad: Path | None = None  # a file of one's own in SQuAD's format
    total: Callable[[int], None] = nothing  # how many steps there will be
    step: Callable[[], None] = nothing
    doing: Callable[[str], None] = nothing  # what goes on now, while no step ends
    notes: list[str] = field(default_factory=list)


def percent(values: Sequence[float], texts: Sequence[Hashable] = ()) -> dict:
    return mean(values, texts=texts) | {"unit": "%"}


def graded(
    name: str, said: Sequence[str | None], wanted: Sequence[Sequence[str]], texts: Sequence[Hashable]
) -> Figures:
    """F1 and exact match against the best of the accepted answers, and refusals; a refusal scores nothing.

    `texts` names the text of each answer.
    """
    pairs = list(zip(said, wanted, strict=True))
    return {
        f"{name}.f1": percent([best(f1, s or "", w) if s is not None else 0.0 for s, w in pairs], texts),
        f"{name}.em": percent([best(exact, s or "", w) if s is not None else 0.0 for s, w in pairs], texts),
        f"{name}.false_refusals": percent([float(s is None) for s in said], texts),
    }


def literal(quotes: Sequence[tuple[str, str]]) -> dict:
    """Share of (quote, source) pairs in which the quote stands in the source letter for letter."""
    return percent([float(quote in source) for quote, source in quotes])


def merged(path: Path, figures: Figures, common: dict) -> None:
    """Puts the figures into the file, which is replaced whole: a kill leaves the old one."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept |= {name: value | common for name, value in figures.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
