"""The paper's long-context table at 128k (RULER, RepoQA), against ours within the trained length and beyond."""

from typing import Any

from lab.experiments.common import Claim
from lab.experiments.longcontext.tasks import ASKED
from lab.scoring import gain

COMMAND = "python -m lab.experiments.longcontext"
RULER = [task for task in ASKED if task != "function"]
PAPER = {  # points of Kimi Linear over the other, model-spec §6
    "mla": {"tasks": "RULER 84.3 against 81.3", "function": "RepoQA 68.5 against 63.0"},
    "gdn": {"tasks": "RULER 84.3 against 80.5", "function": "RepoQA 68.5 against 63.0"},
}
NAMES = {"mla": "all MLA", "gdn": "the GDN hybrid"}


def claims(results: list[dict[str, Any]]) -> list[Claim]:
    """A row for each rival, kind of task, and side of the trained length."""
    most = max((one["settings"]["training"]["lengths"][1] for one in results), default=0)
    ranges = {"up to the trained length": (0, most), "beyond the trained length": (most + 1, 10**9)}
    parts = {"RULER's kinds of task": ("tasks", RULER), "a function by its description": ("function", ["function"])}
    return [
        claim(results, rival, f"{what}, {where}", PAPER[rival][key], tasks, edges)
        for rival in PAPER
        for what, (key, tasks) in parts.items()
        for where, edges in ranges.items()
    ]


def claim(
    results: list[dict[str, Any]], rival: str, what: str, paper: str, tasks: list[str], edges: tuple[int, int]
) -> Claim:
    text = f"{what}: the hybrid is better than {NAMES[rival]}"
    gaps = differences(results, rival, tasks, edges)
    if not gaps:
        return Claim(text, paper, "not run", None, COMMAND)
    found = gain(gaps, scale=1)
    low, high = found["ci95"]
    ours = f"{found['value']:+.1f} points [{low:+.1f}, {high:+.1f}], {len(gaps)} pairs of task and length"
    return Claim(text, paper, ours, True if low > 0 else False if high < 0 else None, COMMAND)


def differences(results: list[dict[str, Any]], rival: str, tasks: list[str], edges: tuple[int, int]) -> list[float]:
    """Points of the hybrid over the rival of the same seed, task by task and length by length."""
    by_case, found = {one["case"]: one for one in results}, []
    for case, ours in by_case.items():
        theirs = by_case.get(case.replace("hybrid-", f"{rival}-"))
        if case.startswith("hybrid-") and theirs:
            for cell, score in ours["scores"].items():
                task, length = cell.rsplit("-", 1)
                if task in tasks and edges[0] <= int(length) <= edges[1]:
                    found.append(score["value"] - theirs["scores"][cell]["value"])
    return found
