"""Crossovers of known curves, and the measures on a shape of some thousands of parameters."""

import pytest
import torch

from bench.gpu_model import engine_of
from lab.experiments.efficiency import measuring
from lab.experiments.efficiency.crossing import crossing

CPU = torch.device("cpu")
SMALL = {
    "folder": "tests/engine/data/48b",
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "intermediate_size": 1024,
    "first_k_dense_replace": 4,
    "linear_attn_config": {
        "num_heads": 2,
        "head_dim": 16,
        "short_conv_kernel_size": 4,
        "kda_layers": [1, 2, 3],
        "full_attn_layers": [4],
    },
}
OWN = {"shape": "small", "shapes": {"small": SMALL}}
LENGTHS = [2**n for n in range(10, 21)]


@pytest.mark.parametrize("power", [1.5, 2.0])
def test_powers_cross_where_they_are_equal(power: float):
    """3e4 n = n^p at n = 3e4^(1/(p-1)), between two of the lengths."""
    found = crossing({n: 3e4 * n for n in LENGTHS}, {n: n**power for n in LENGTHS})
    at = 3e4 ** (1 / (power - 1))
    assert found is None if at > LENGTHS[-1] else found == pytest.approx(at, rel=1e-9)


def test_the_papers_prefill_crosses_between_16k_and_32k():
    """model-spec §6: seconds of MLA and of Kimi Linear."""
    lengths = [2**n for n in range(12, 21)]
    mla = dict(zip(lengths, [0.07, 0.10, 0.18, 0.36, 0.80, 2.00, 5.76, 18.6, 65.5], strict=True))
    hybrid = dict(zip(lengths, [0.10, 0.12, 0.19, 0.33, 0.64, 1.40, 3.22, 8.07, 22.8], strict=True))
    assert 2**14 < crossing(hybrid, mla) < 2**15
    assert crossing(mla, hybrid) is None


def test_always_never_touching_and_crossing_twice():
    line = {1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}
    assert crossing({n: 0.5 for n in line}, line) == 0
    assert crossing(line, line) is None
    assert crossing({}, line) is None
    assert 2 < crossing({1: 0.5, 2: 2.0, 4: 0.5, 8: 0.5}, line) < 4


def test_both_kinds_are_of_one_size_and_hold_what_their_layers_need():
    configs = {kind: measuring.shape(OWN, kind) for kind in ("hybrid", "mla")}
    sizes = {kind: measuring.parameters(config) for kind, config in configs.items()}
    assert sizes["mla"] == pytest.approx(sizes["hybrid"], rel=0.05) and not configs["mla"].kda_layers
    held = {}
    for kind, config in configs.items():
        model = measuring.model_of(config, CPU)
        held[kind] = [measuring.decode(model, length, 64, 6)["cache_bytes"] for length in (512, 1024)]
    latent = 512 * (16 + 8) * 4
    assert held["mla"] == [4 * latent, 8 * latent]
    state = 3 * (2 * 16 * 16 * 4 + 3 * 3 * 32 * 4)
    assert held["hybrid"] == [latent + state, 2 * latent + state]


def test_one_reading_tells_the_time_of_every_length_until_it_is_broken_off():
    model = measuring.model_of(measuring.shape(OWN, "hybrid"), CPU)
    found = measuring.prefill(model, [64, 256, 512], 64, 60.0)
    assert list(found) == [64, 256, 512] and 0 < found[64] < found[256] < found[512]
    assert list(measuring.prefill(model, [64, 512], 64, 0.0)) == [64]


def test_a_decoded_token_stands_behind_the_context(monkeypatch: pytest.MonkeyPatch):
    """What is timed is a step with the whole context before it, in a model that has it in its cache."""
    engines = []
    monkeypatch.setattr(measuring, "engine_of", lambda *a, **k: engines.append(engine_of(*a, **k)) or engines[-1])
    measuring.decode(measuring.model_of(measuring.shape(OWN, "hybrid"), CPU), 512, 64, 6)
    assert engines[0].position(1) == 512 + 4 + 6 - 1
