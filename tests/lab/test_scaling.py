"""FLOPs are those that are counted; sizes are matched; the fit finds laws that are known, its interval covers them."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from engine.config import ModelConfig
from lab.experiments import flops, small
from lab.experiments.common import settings
from lab.experiments.scaling import __main__ as scaling
from lab.experiments.scaling.claims import claims
from lab.experiments.scaling.law import Point, efficiency, fit, noise, points, summary
from lab.net import Net, read_config
from tests.lab.test_ablations import CPU, FOLDER, MODEL, arguments, parcels  # noqa: F401

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
PAPER = {"hybrid": (2.2879, 0.0527), "mla": (2.3092, 0.0536)}
aten = torch.ops.aten


def counted(config: dict, length: int) -> dict:
    model = Net(config, torch.float32)
    row = small.rectangle(length, length, CPU)[0]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.losses(model.hidden(torch.randint(16, 80, (length,)), row)[0], torch.zeros(length, dtype=torch.long))
    return counter.get_flop_counts()["Global"]


@pytest.mark.parametrize("change", [{"ratio": 0}, {"ratio": 0, "rope": True}])
def test_flops_of_mla_are_those_that_are_counted(change):
    config, length = small.shape(MODEL | change), 64
    every = config | {"num_experts_per_token": config["num_experts"]}  # the training model computes all of them
    with sdpa_kernel(SDPBackend.MATH):  # two products over all pairs: it knows no causal shortcut
        found = counted(config, length)
    assert found[aten.bmm] == 2 * length * flops.mixing(every, length)
    assert sum(found.values()) == length * (flops.forward(every, length) + flops.mixing(every, length))


@pytest.mark.parametrize("change", [{}, {"gate": "none"}, {"conv": False}])
def test_weights_of_the_hybrid_are_those_that_multiply(change):
    config, length = small.shape(MODEL | change), 16
    every = config | {"num_experts_per_token": config["num_experts"]}
    weights = [p for name, p in Net(config).named_parameters() if p.dim() == 2 and "conv1d" not in name]
    assert flops.linears(every) + config["vocab_size"] * config["hidden_size"] == sum(p.numel() for p in weights)
    products = counted(config, length)[aten.mm]
    assert products >= 2 * length * sum(p.numel() for p in weights)


def test_flops_are_the_engines_benchmarks():
    """Which counts no head; its figures are model-spec §5.3's."""
    gpu_rates = pytest.importorskip("bench.gpu_rates")
    fields, tokens = read_config(ROOT / "lab/shape.json"), 4096
    head = 2 * fields["vocab_size"] * fields["hidden_size"]
    ours = flops.forward(fields, tokens) - head
    assert tokens * ours == gpu_rates.prefill_flops(ModelConfig.from_dict(fields), tokens)


def test_flops_of_the_48b():
    """model-spec §5.3: 5.459 G of linears without the head, 0.115 G of KDA, 71,680 N of attention."""
    linear = {"num_heads": 32, "head_dim": 128, "kda_layers": [0] * 20, "full_attn_layers": [0] * 7}
    config = {"linear_attn_config": linear, "hidden_size": 2304, "vocab_size": 163840, "num_hidden_layers": 27}
    config |= {"num_attention_heads": 32, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64}
    config |= {"v_head_dim": 128, "intermediate_size": 9216, "first_k_dense_replace": 1, "num_experts": 256}
    config |= {"num_experts_per_token": 8, "num_shared_experts": 1, "moe_intermediate_size": 1024}
    assert math.isclose(2 * flops.linears(config), 5.459e9, rel_tol=1e-3)  # without norms, filters, decays
    assert flops.mixing(config, 4096) == 180_224 * 32 * 20 + 71_680 * 4096
    assert math.isclose(flops.forward(config, 4096), 5.87e9 + 0.755e9, rel_tol=1e-3)


def test_both_kinds_of_every_size_cost_the_same():
    config = settings(FOLDER / "scaling/config.toml")
    spent: dict[str, set[float]] = {}
    for name, own in scaling.cases(config):
        train = own["train"]
        tokens = small.steps_of(own) * train["tokens"]
        cost = small.budget(own["model"], train["length"], tokens)
        assert math.isclose(cost, own["flops"], rel_tol=1e-3), name
        spent.setdefault(name.split(".")[1], set()).add(own["flops"])
    assert len(spent) >= 4 and all(len(found) == 1 for found in spent.values())
    assert len(set.union(*spent.values())) == len(spent)


def test_the_fit_finds_a_law():
    compute = np.geomspace(1e-6, 1e-3, 5)
    assert fit(compute, 2.3 * compute**-0.05) == pytest.approx((2.3, 0.05))
    assert efficiency((2.0, 0.05), (2.0, 0.05), 7.0) == pytest.approx(1.0)
    better = 2.3 * (1.25 * compute) ** -0.05
    assert efficiency(fit(compute, better), (2.3, 0.05), 1e-4) == pytest.approx(1.25)
    assert 1.14 < efficiency(PAPER["hybrid"], PAPER["mla"], 5.0) < 1.18


def made(seed: int, sigma: float, laws: dict = PAPER) -> list[Point]:
    """Runs of known laws: windows that are hard or easy for every run alike, and noise of the seed."""
    pick, found = np.random.default_rng(seed), []
    hard = pick.normal(0, 0.2, 64)
    for size, compute in zip("abcd", np.geomspace(1e-5, 1e-3, 4), strict=True):
        for kind, (a, b) in laws.items():
            for run in range(3):
                loss = a * compute**-b + pick.normal(0, sigma)
                found.append(Point(f"{kind}.{size}.{run}", kind, size, compute, 10 * (loss + hard - hard.mean()), 10))
    return found


def test_the_interval_covers_the_truth():
    at = math.sqrt(1e-5 * 1e-3)
    true, held, width = efficiency(PAPER["hybrid"], PAPER["mla"], at), 0, []
    for seed in range(40):
        told = summary(made(seed, 0.004), 200)
        low, high = told["ratio_95"]
        assert told["at"] == pytest.approx(at) and 0.002 < told["seed_sd"] < 0.007
        held, width = held + (low <= true <= high), [*width, high - low]
    assert held >= 33 and np.mean(width) < 0.25 * true  # 38 of 40 expected; narrower than it is useful


def test_noise_needs_a_second_seed():
    found = made(1, 0.004)
    assert noise([p for p in found if p.case.endswith(".0")]) is None
    assert summary([p for p in found if p.size == "a"], 10) is None


def test_the_miniature_ends_in_two_laws(parcels, tmp_path):  # noqa: F811
    config = settings(FOLDER / "scaling/config.toml", miniature=True)
    config["model"]["vocabulary"] = 128
    results = small.run(arguments(tmp_path), scaling.cases(config), str(parcels))
    assert len(points(results.all())) == 10
    scaling.conclude(results, config["draws"])
    law = next(one for one in results.all() if one["case"] == "law")
    low, high = law["ratio_95"]
    assert low <= law["ratio"] <= high and law["seed_sd"] > 0 and law["laws"]["hybrid"][1] > 0
    assert claims(results.all())[0].ours.startswith(f"{law['ratio']:.2f} ({low:.2f}")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
