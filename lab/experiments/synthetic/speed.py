"""Is every kernel right on this machine, and how long does the whole table take?

    python -m lab.experiments.synthetic.speed [--seconds 60] [--only kda]

A line for each model and length, the rivals by our kernels first: steps a second with all rates at once, seconds to
compile and tune, seconds of a case that makes all its steps with every rate (halving and early ends make it less), and
the greatest relative error of the mixer's output and gradients against the form for CPUs in fp32.
"""

import json
import time
from typing import Any

import torch
from torch import Tensor

from lab.experiments.common import Clock, arguments, settings, wanted
from lab.experiments.synthetic.learner import Learner
from lab.experiments.synthetic.mixing import FORMS
from lab.experiments.synthetic.model import compile_parts


def main() -> None:
    args = arguments(__doc__ or "", "synthetic")
    own, clock = settings(args.config, args.miniature), Clock(args.seconds)
    if args.device.type == "cuda":
        compile_parts()
    for rivals, length, kind in cases(own):
        case = f"{own['tasks'][0]}-{length}-{kind}"
        if wanted(case, args.only) and not clock.over():
            line = measured(own | {"rivals": rivals}, length, kind, args.device)
            print(json.dumps({"case": case, "rivals": rivals} | line), flush=True)


def cases(own: dict[str, Any]) -> list[tuple[str, int, str]]:
    rivals = [kind for kind in own["models"] if kind != "kda"]
    ours = [("own", length, kind) for length in own["lengths"] for kind in own["models"]]
    return ours[:3] + [("fla", own["lengths"][0], kind) for kind in rivals] + ours[3:]


def measured(own: dict[str, Any], length: int, kind: str, device: torch.device) -> dict[str, float]:
    began = time.monotonic()
    learner = Learner(own["tasks"][0], length, kind, own, device)
    plan = learner.plan
    plan |= {"look": 1, "halve": []}
    learner.look()
    ready, plan["look"] = time.monotonic(), 100
    learner.look()
    rate = 100 / (time.monotonic() - ready)
    error = max(errors(kind, own["rivals"] if device.type == "cuda" else "own", device))
    found = {"steps_a_second": rate, "ready": ready - began, "whole": plan["steps"] / rate, "error": error}
    return {name: float(f"{value:.4g}") for name, value in found.items()} | {
        "loss": learner.curves[str(plan["rates"][-1])][-1][2]
    }


def errors(kind: str, rivals: str, device: torch.device) -> list[float]:
    """Of the output and of the gradients of q, k, v, a."""
    given = inputs(kind)
    found = walked(FORMS[rivals][kind], [x.to(device) for x in given])
    expected = walked(FORMS["own"][kind], [x.float() for x in given])
    return [float((a.cpu().float() - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]


def inputs(kind: str, rows: int = 192, heads: int = 4, dim: int = 128) -> list[Tensor]:
    torch.manual_seed(0)
    forgets = (heads, dim) if kind == "kda" else (heads,)
    q, k, v = torch.randn(3, rows, heads, dim).bfloat16()
    a, b = torch.randn(rows, *forgets).bfloat16(), torch.randn(rows, heads).bfloat16()
    return [q, k, v, a, b, torch.rand(heads), torch.randn(forgets).flatten() - 3]


def walked(form, given: list[Tensor]) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in given]
    o = form(*leaves, 2)
    o.float().sin().sum().backward()
    return [o.detach(), *(x.grad for x in leaves[:4])]


if __name__ == "__main__":
    main()
