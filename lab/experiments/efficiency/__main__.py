"""Reading and decoding by length, one sequence in the engine: a hybrid, and its shape with MLA in every layer.

    python -m lab.experiments.efficiency [--only prefill] [--seconds 600] [--device cpu] [--miniature]

Cases: `prefill-KIND` (seconds until each length is read), `decode-KIND-LENGTH` (median ms of a token; bytes of latents
and state that this context holds), `operators-LENGTH` (on a GPU with flash-linear-attention: ms of a recurrence by our
KDA, its KDA and its Gated DeltaNet). The engine has no Gated DeltaNet: KDA's kernels take a gate of equal numbers in
the time of any other gate, so a GDN hybrid is not measured as a third engine, only its recurrence in the last cases.
Random weights. MLA in every layer has its MLPs widened to the hybrid's number of parameters, which the results tell.
"""

import argparse
from typing import Any

import torch

from engine.model import KimiLinear
from lab.experiments.common import Clock, Results, arguments, settings, wanted
from lab.experiments.efficiency import measuring

KINDS = ("hybrid", "mla")


def main() -> None:
    args = arguments(__doc__ or "", "efficiency")
    bench = Bench(args, settings(args.config, args.miniature), Results(args.out), Clock(args.seconds))
    if args.device.type == "cuda":
        for length in bench.own["operators"]:
            bench.case(f"operators-{length}", lambda n=length: measuring.operators(bench.heads(), n))
    for kind in KINDS:
        bench.of(kind)


class Bench:
    def __init__(self, args: argparse.Namespace, own: dict[str, Any], results: Results, clock: Clock):
        self.args, self.own, self.results, self.clock = args, own, results, clock

    def heads(self) -> int:
        return measuring.shape(self.own, "hybrid").kda_heads

    def of(self, kind: str) -> None:
        """All cases of a kind that are left, one model for them, made when the first needs it."""
        model, config = list[KimiLinear](), measuring.shape(self.own, kind)

        def made() -> KimiLinear:
            model[:] = model or [measuring.model_of(config, self.args.device)]
            return model[0]

        size = {"parameters": measuring.parameters(config)}
        for length in self.own["decode"]:
            own = self.own["step"], self.own["decoded"]
            self.case(f"decode-{kind}-{length}", lambda n=length, own=own: measuring.decode(made(), n, *own) | size)
        own = self.own["prefill"], self.own["step"], self.own["limit"]
        self.case(f"prefill-{kind}", lambda: {"seconds": measuring.prefill(made(), *own)} | size)

    def case(self, name: str, measure: Any) -> None:
        if not wanted(name, self.args.only) or self.results.done(name, self.own) or self.clock.over():
            return
        found = measure()
        print(f"{name}: {found}, {self.clock.left():.0f} s left", flush=True)
        self.results.put(name, self.own, **found)
        if self.args.device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
