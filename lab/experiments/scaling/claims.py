"""The efficiency ratio of the fitted laws beside the paper's 1.16."""

from typing import Any

from lab.experiments.common import Claim

PAPER = 1.16
COMMAND = "python -m lab.experiments.scaling"
CLAIM = "compute that MLA in every layer needs for the hybrid's loss, over the hybrid's"


def claims(results: list[dict[str, Any]]) -> list[Claim]:
    law = next((one for one in results if one["case"] == "law"), None)
    if law is None:
        return [Claim(CLAIM, f"{PAPER}", "not run", None, COMMAND)]
    low, high = law["ratio_95"]
    ours = f"{law['ratio']:.2f} ({low:.2f} to {high:.2f}) at {law['at']:.2g} PFLOP/s-days"
    return [Claim(CLAIM, f"{PAPER}", ours, agrees(low, high, law["seed_sd"]), COMMAND)]


def agrees(low: float, high: float, seeds: float | None) -> bool | None:
    """Whether the hybrid needs less, as the paper says; None: the interval holds 1, or knows nothing of seeds."""
    if seeds is None or low <= 1.0 <= high:
        return None
    return low > 1.0
