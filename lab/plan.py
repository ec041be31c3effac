"""What is read when: three phases over the run, and the learning rate (warm-up, level, decay)."""

import random
from dataclasses import dataclass, field

CORPUS = {"wiki": 0.38, "books": 0.27, "docs": 0.17, "code": 0.18}


@dataclass(frozen=True)
class Phase:
    """Shares of tokens by task, the longest sequence, and how much a token counts that is read or said."""

    until: float
    longest: int
    tasks: dict[str, float]
    read_weight: float
    say_weight: float
    questions: dict[str, float]
    corpus: dict[str, float] = field(default_factory=lambda: CORPUS)

    def limit(self, pick: random.Random, task: str) -> int:
        """Language fills the context; tasks are of any length up to it."""
        if task == "language" or self.longest <= 2048:
            return self.longest
        return int(2048 * (self.longest / 2048) ** pick.random())


PHASES = [
    Phase(
        0.62,
        2048,
        {
            "language": 0.68,
            "cloze": 0.13,
            "recall": 0.01,
            "needle": 0.02,
            "recite": 0.02,
            "ask": 0.05,
            "point": 0.04,
            "search": 0.02,
            "summarise": 0.02,
            "find": 0.02,
        },
        0.4,
        2.0,
        {"squad": 0.45, "wiki_templates": 0.2, "qamr": 0.1, "fairytaleqa": 0.1, "other": 0.05, "replaced": 0.1},
    ),
    Phase(
        0.80,
        4096,
        {
            "language": 0.44,
            "cloze": 0.10,
            "recall": 0.01,
            "needle": 0.06,
            "recite": 0.01,
            "ask": 0.11,
            "point": 0.12,
            "search": 0.07,
            "summarise": 0.04,
            "find": 0.06,
        },
        0.2,
        3.0,
        {"squad": 0.52, "wiki_templates": 0.1, "qamr": 0.06, "fairytaleqa": 0.12, "other": 0.05, "replaced": 0.15},
    ),
    Phase(
        1.01,
        16384,
        {
            "language": 0.16,
            "cloze": 0.03,
            "recall": 0.01,
            "needle": 0.12,
            "ask": 0.23,
            "point": 0.20,
            "search": 0.10,
            "summarise": 0.06,
            "find": 0.08,
            "recite": 0.01,
        },
        0.1,
        3.0,
        {"squad": 0.62, "wiki_templates": 0.04, "qamr": 0.02, "fairytaleqa": 0.15, "other": 0.04, "replaced": 0.13},
    ),
]


def phase_at(progress: float) -> Phase:
    return next(p for p in PHASES if progress < p.until)


def rate_at(progress: float, step: int, warmup: int = 150, level_until: float = 0.5) -> float:
    """Share of the full learning rate."""
    decay = 1.0 if progress < level_until else max(0.02, (1 - progress) / (1 - level_until))
    return min(1.0, (step + 1) / warmup) * decay
