"""The paper's peaks at length 1024 beside ours: does KDA lead as it did there?

Only one start: the interval of a peak would be that of counting its answers, 250 batches of thousands, under 0.1
points. It is not printed, for another seed moves a figure by more; ``agrees`` asks for the order, not for equality.
"""

from typing import Any

from lab.experiments.common import Claim
from lab.experiments.synthetic.paper import LENGTHS, PEAKS

COMMAND = "python -m lab.experiments.synthetic --only"
SHOWN = (1024, 2048)
MODELS = {"kda": "KDA", "gdn": "Gated DeltaNet", "mamba2": "Mamba2"}
CLEAR = 2.0  # points: less is a draw


def claims(results: list[dict[str, Any]]) -> list[Claim]:
    peaks = {one["case"]: 100 * one["peak"] for one in results}
    return [claim(task, length, peaks) for length in SHOWN for task in ("mqar", "palindrome", "stack")]


def claim(task: str, length: int, peaks: dict[str, float]) -> Claim:
    paper = [PEAKS[task][kind][LENGTHS.index(length)] for kind in MODELS]
    text = f"{task}, {length} tokens, peak accuracy of {', '.join(MODELS.values())}"
    found = [peaks.get(f"{task}-{length}-{kind}") for kind in MODELS]
    ours = " / ".join("–" if peak is None else f"{peak:.1f}" for peak in found)
    whole = [peak for peak in found if peak is not None]
    agrees = order(paper) == order(whole) if len(whole) == len(MODELS) else None
    said = f"{ours} %, one seed" if whole else "not run"
    return Claim(text, " / ".join(f"{peak:g}" for peak in paper) + " %", said, agrees, f"{COMMAND} {task}-{length}")


def order(peaks: list[float]) -> list[int]:
    """Of KDA against each rival: 1 it leads clearly, 0 a draw, -1 it is behind."""
    return [(peaks[0] > rival + CLEAR) - (peaks[0] < rival - CLEAR) for rival in peaks[1:]]
