"""How often each fault strikes, what came of it, and what is still to do."""

from __future__ import annotations

import json
import os
import platform
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.faults.book import Broken
from tests.faults.damage import CutLog, DeleteBlocks, SwapBlocks, Truncate
from tests.faults.fault import Fault
from tests.faults.flips import GOOD, Flips
from tests.faults.kills import KillEngine, KillMidRead, KillRealEngine, KillRedis
from tests.faults.network import Cut, HalfOpen, Slow
from tests.faults.starve import DiskFull, NoSmallDisk, RedisFull
from tests.faults.system import KillService
from tests.faults.world import Lab
from tests.faults.writers import TwoResumers, Zombie

# Share of the strikes: of a thousand kills, so many are of this kind; the others are struck in proportion.
SHARES: dict[type[Fault], int] = {
    KillEngine: 680, KillMidRead: 100, KillRedis: 200, KillRealEngine: 8, KillService: 12,
    RedisFull: 30, DiskFull: 10, DeleteBlocks: 100, Truncate: 100, SwapBlocks: 100, CutLog: 50,
    Slow: 20, HalfOpen: 20, Cut: 40, TwoResumers: 60, Zombie: 60,
}  # fmt: skip
FAULTS: dict[str, type[Fault] | type[Flips]] = {**{kind.name: kind for kind in SHARES}, Flips.name: Flips}
PROGRESS_SECONDS = 5.0


@dataclass(frozen=True)
class Plan:
    kills: int
    flips: int
    seed: int
    only: list[str]

    def rounds(self) -> dict[str, int]:
        """Strikes of each fault. Each that is asked for strikes at least once, engine kills make up the number."""
        wanted = {kind.name: max(1, round(self.kills * share / 1000)) for kind, share in SHARES.items()}
        killers = [kind.name for kind in SHARES if kind.kills and kind is not KillEngine and kind.name in self.only]
        others = sum(wanted[name] for name in killers)
        wanted[KillEngine.name] = max(1, self.kills - others)
        return {name: n for name, n in (wanted | {Flips.name: self.flips}).items() if name in self.only and n}


@dataclass
class Report:
    """Counts by fault and outcome; the failures in words."""

    plan: Plan
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    kills: int = 0

    def summary(self) -> str:
        lines = [f"{name:>18}  {_counts(outcome)}" for name, outcome in self.outcomes.items()]
        lines += [f"SKIPPED {reason}" for reason in self.skipped]
        lines += [f"FAILED {failure}" for failure in self.failures]
        lines.append(f"{self.kills} kills, {len(self.failures)} failures, seed {self.plan.seed}")
        return "\n".join(lines)

    def json(self) -> str:
        facts = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "seed": self.plan.seed, "kills": self.kills, "outcomes": self.outcomes, "skipped": self.skipped,
            "failures": self.failures, "seconds": {name: round(s, 1) for name, s in self.seconds.items()},
        }  # fmt: skip
        return json.dumps(facts, indent=1) + "\n"


def _counts(outcome: Counter[str]) -> str:
    """Without the regions of flips, which only the JSON has."""
    return ", ".join(f"{name} {count}" for name, count in sorted(outcome.items()) if "." not in name)


def run(lab: Lab, plan: Plan) -> Report:
    report = Report(plan)
    for name, rounds in plan.rounds().items():
        started = time.monotonic()
        try:
            _strikes(lab, report, name, rounds)
        except NoSmallDisk as why:
            report.skipped.append(f"{name}: {why}")
            print(f"{name}: SKIPPED: {why}", flush=True)
        report.seconds[name] = time.monotonic() - started
    return report


def _strikes(lab: Lab, report: Report, name: str, rounds: int) -> None:
    """A fault that was Broken goes on in a new world."""
    outcome = report.outcomes.setdefault(name, Counter())
    progress = Progress(name, rounds)
    fault: Fault | Flips | None = None
    try:
        for number in range(rounds):
            dice = random.Random(f"{report.plan.seed} {name} {number}")
            fault = fault or FAULTS[name](lab, dice)
            try:
                outcome += fault.strike(dice)
            except Broken as broken:
                outcome[f"FAILED {broken.kind}"] += 1
                report.failures.append(f"{name} {number}: {broken}")
                fault.stop()
                fault = None
            report.kills += FAULTS[name].kills
            progress.tell(number + 1, outcome)
    finally:
        if fault is not None:
            if isinstance(fault, Flips):
                bad = sum(count for kind, count in outcome.items() if "." not in kind and kind not in GOOD)
                report.failures += fault.examples + [f"{name}: {bad} of {rounds} flips"] * bool(bad)
            fault.stop()


class Progress:
    """A line now and then: how far, how fast, how long still."""

    def __init__(self, name: str, total: int) -> None:
        self._name, self._total = name, total
        self._started = self._told = time.monotonic()

    def tell(self, done: int, outcome: Counter[str]) -> None:
        now = time.monotonic()
        if done < self._total and now - self._told < PROGRESS_SECONDS:
            return
        self._told = now
        rate = done / (now - self._started)
        left = (self._total - done) / rate
        print(f"{self._name:>18} {done}/{self._total}  {rate:.1f}/s  {left:.0f} s left  {_counts(outcome)}", flush=True)
