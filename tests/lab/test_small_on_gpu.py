"""The captured step of the small models: the gradients of an eager one, and a model that learns by it."""

from pathlib import Path

import pytest
import torch

from lab.experiments import small
from lab.experiments.common import Checkpoint, Clock
from lab.experiments.text import Text

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
MODEL = {"vocabulary": 128, "layers": 4, "hidden": 256, "heads": 2, "head_dim": 128}
TRAIN = {"length": 256, "tokens": 2048, "muon": 1e-2, "adam": 3e-3, "warmup": 5, "level_until": 0.5, "look": 10}
STEPS = 40


def run(folder: Path, **change) -> small.Run:
    model = MODEL | {"ratio": 3, "gate": "sigmoid", "conv": True, "rope": True} | change
    flops = small.budget(model, TRAIN["length"], STEPS * TRAIN["tokens"])
    own = {"model": model, "train": TRAIN, "flops": flops, "seed": 1, "held": 16, "parcels": ""}
    order = (torch.arange(64) * 37 % 64 + 16).repeat(400).short().cuda()
    text = Text(order, order[:8000], torch.ones(128, dtype=torch.long, device="cuda"))
    return small.Run(own, text, torch.device("cuda"), Checkpoint(folder / "run.pt"))


@pytest.mark.parametrize("change", [{}, {"ratio": 0}, {"gate": "none"}, {"conv": False}])
def test_the_graphs_gradients_are_those_of_an_eager_step(tmp_path, change):
    captured, eager = run(tmp_path, **change), run(tmp_path, **change)
    replay = captured.gradients_on_gpu()
    assert captured.optimiser.flat.abs().max() == 0 and captured.loss == 0
    assert all(layer.mlp.bias.abs().max() == 0 for layer in captured.net.layers[1:])  # warming up left nothing
    for one, gradients in ((captured, replay), (eager, eager.gradients)):
        one.draw()
        with torch.compiler.set_stance("force_eager"):
            gradients()
    wrong = (captured.optimiser.flat - eager.optimiser.flat).norm() / eager.optimiser.flat.norm()
    assert eager.optimiser.flat.norm() > 0 and wrong < 2e-2
    assert torch.isclose(captured.loss, eager.loss, rtol=1e-3)


def test_it_learns_and_goes_on(tmp_path):
    cut = run(tmp_path)
    assert not cut.train("cut", Clock(0.0)) and cut.step == TRAIN["look"]
    again = run(tmp_path)
    assert again.step == cut.step and again.train("again", Clock(120.0)) and again.step == STEPS
    assert again.curve[-1][1] < 0.5 * again.curve[0][1]
    assert 0 < again.figures()["loss"] < again.curve[0][1]
