"""What is read when: three phases over the run, and the learning rate (warm-up, level, decay)."""

import random
from dataclasses import dataclass, field

CORPUS = {"wiki": 0.40, "books": 0.28, "docs": 0.15, "code": 0.17}


@dataclass(frozen=True)
class Phase:
    """Shares of tokens by task, lengths of running text and of tasks, and how much a token counts, read or said."""

    until: float
    language: int  # tokens of a sequence of running text
    longest: int  # tokens of a task's sequence
    tasks: dict[str, float]
    read_weight: float
    say_weight: float
    questions: dict[str, float]
    corpus: dict[str, float] = field(default_factory=lambda: CORPUS)

    def limit(self, pick: random.Random, task: str) -> int:
        """Running text fills its length; the limit of a task is anything up to the longest, its logarithm even."""
        return self.language if task == "language" else int(1024 * (self.longest / 1024) ** pick.random())


LANGUAGE = Phase(
    0.52,
    2048,
    4096,
    {
        "language": 0.60,
        "cloze": 0.12,
        "blanks": 0.09,
        "recall": 0.01,
        "needle": 0.02,
        "keys": 0.01,
        "values": 0.01,
        "track": 0.01,
        "recite": 0.01,
        "ask": 0.04,
        "point": 0.015,
        "article": 0.025,
        "summarise": 0.015,
        "find": 0.025,
    },
    0.3,
    3.0,
    {"squad": 0.45, "wiki_templates": 0.2, "qamr": 0.1, "fairytaleqa": 0.1, "other": 0.05, "replaced": 0.1},
)
TASKS = Phase(
    0.82,
    4096,
    12288,
    {
        "language": 0.34,
        "cloze": 0.09,
        "blanks": 0.16,
        "recall": 0.01,
        "needle": 0.03,
        "keys": 0.025,
        "values": 0.015,
        "track": 0.02,
        "recite": 0.01,
        "ask": 0.09,
        "point": 0.05,
        "article": 0.07,
        "summarise": 0.03,
        "find": 0.06,
    },
    0.1,
    4.0,
    {"squad": 0.52, "wiki_templates": 0.1, "qamr": 0.06, "fairytaleqa": 0.12, "other": 0.05, "replaced": 0.15},
)
LONG = Phase(
    1.01,
    16384,
    61440,
    {
        "language": 0.13,
        "cloze": 0.03,
        "blanks": 0.18,
        "recall": 0.01,
        "needle": 0.06,
        "keys": 0.05,
        "values": 0.03,
        "track": 0.03,
        "recite": 0.01,
        "ask": 0.15,
        "point": 0.09,
        "article": 0.13,
        "summarise": 0.04,
        "find": 0.06,
    },
    0.05,
    5.0,
    {"squad": 0.62, "wiki_templates": 0.04, "qamr": 0.02, "fairytaleqa": 0.15, "other": 0.04, "replaced": 0.13},
)
PHASES = [LANGUAGE, TASKS, LONG]


def phase_at(progress: float) -> Phase:
    return next(p for p in PHASES if progress < p.until)


def rate_at(progress: float, step: int, warmup: int = 150, level_until: float = 0.55) -> float:
    """Share of the full learning rate; `step` counts from where the optimiser's moments began."""
    decay = 1.0 if progress < level_until else max(0.02, (1 - progress) / (1 - level_until))
    return min(1.0, (step + 1) / warmup) * decay
