"""The paper's speed at batch 1 and its cache, against ours. They agree where ours is within a quarter of theirs."""

from typing import Any

from lab.experiments.common import Claim
from lab.experiments.efficiency.crossing import crossing

COMMAND = "python -m lab.experiments.efficiency"
NEAR = 1.25
FAR = 131072  # what was measured up to fewer tokens refutes nothing
PREFILL = {131072: 1.43, 262144: 1.79, 524288: 2.3, 1048576: 2.9}  # all MLA / hybrid, model-spec §6
DECODE = {131072: 1.34, 262144: 1.52, 524288: 1.8, 1048576: 2.2}
SAVED = 75  # % of the cache
Curves = dict[str, dict[int, float]]  # by kind, then by length


def curves(results: list[dict[str, Any]], figure: str) -> Curves:
    """``seconds`` of prefill, ``decode_ms`` or ``cache_bytes``."""
    found: Curves = {"hybrid": {}, "mla": {}}
    for one in results:
        part, _, rest = one["case"].partition("-")
        kind, _, length = rest.partition("-")
        if part == "prefill" and figure == "seconds":
            found[kind] = {int(n): seconds for n, seconds in one["seconds"].items()}
        elif part == "decode" and figure != "seconds":
            found[kind][int(length)] = one[figure]
    return found


def claims(results: list[dict[str, Any]]) -> list[Claim]:
    prefill, decode, cache = (curves(results, name) for name in ("seconds", "decode_ms", "cache_bytes"))
    return [
        crosses("reading", "between 16k and 32k tokens", prefill),
        faster("reading", PREFILL, prefill),
        crosses("decoding", "below 4k tokens", decode),
        faster("decoding a token, batch 1,", DECODE, decode),
        smaller(cache),
    ]


def crosses(what: str, paper: str, found: Curves) -> Claim:
    text = f"{what}: the hybrid is faster than all MLA from some length on"
    if not found["hybrid"].keys() & found["mla"].keys():
        return Claim(text, paper, "not run", None, COMMAND)
    at = crossing(found["hybrid"], found["mla"])
    longest = max(found["hybrid"].keys() & found["mla"].keys())
    if at is None:
        return Claim(text, paper, f"not up to {longest} tokens", False if longest >= FAR else None, COMMAND)
    return Claim(text, paper, f"from {at:.0f} tokens on" if at else "at every length measured", True, COMMAND)


def faster(what: str, paper: dict[int, float], found: Curves) -> Claim:
    """At the longest length that both models, and the paper, have."""
    both = found["hybrid"].keys() & found["mla"].keys() & paper.keys()
    length = max(both, default=max(paper))
    text = f"{what} at {length} tokens: all MLA takes so many times as long"
    if not both:
        return Claim(text, f"{paper[length]} x", "not run", None, COMMAND)
    ratio = found["mla"][length] / found["hybrid"][length]
    return Claim(text, f"{paper[length]} x", f"{ratio:.2f} x", 1 / NEAR <= ratio / paper[length] <= NEAR, COMMAND)


def smaller(found: Curves) -> Claim:
    both = found["hybrid"].keys() & found["mla"].keys()
    text = "latents and state of a long context: the hybrid's are smaller"
    if not both:
        return Claim(text, f"up to {SAVED} %", "not run", None, COMMAND)
    saved = 100 * (1 - found["hybrid"][max(both)] / found["mla"][max(both)])
    agrees = abs(saved - SAVED) < 5 if max(both) >= FAR else None
    return Claim(text, f"up to {SAVED} %", f"{saved:.1f} % at {max(both)} tokens", agrees, COMMAND)
