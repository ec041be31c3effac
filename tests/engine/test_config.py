from pathlib import Path

import pytest

from engine import ConfigError, EngineConfig, ModelConfig
from engine.testing import BOUNDED, FULL_RANK, TINY

RELEASED = Path(__file__).parent / "data" / "48b"


def test_the_released_config_with_its_irregular_tail():
    config = ModelConfig.from_folder(RELEASED)
    assert config.mla_layers == (3, 7, 11, 15, 19, 23, 26)
    assert config.kda_layers[-3:] == (22, 24, 25) and len(config.kda_layers) == 20
    assert (config.kda_width, config.latent_width) == (4096, 576)
    assert config.kv_a_layernorm_eps == 1e-6 and config.rms_norm_eps == 1e-5
    assert [config.is_moe(i) for i in (0, 1, 26)] == [False, True, True]


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_folder_without_a_config(tmp_path, content):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        ModelConfig.from_folder(tmp_path)


@pytest.mark.parametrize("field", ["hidden_size", "kv_lora_rank", "linear_attn_config", "routed_scaling_factor"])
def test_a_missing_field_is_named(field):
    with pytest.raises(ConfigError, match=field):
        ModelConfig.from_dict({name: value for name, value in TINY.items() if name != field})


@pytest.mark.parametrize(
    "field, value",
    [
        ("q_lora_rank", 1536),
        ("mla_use_nope", False),
        ("model_type", "llama"),
        ("gate_lower_bound", -5.0),
        ("num_expert_group", 4),
        ("moe_router_activation_func", "softmax"),
        ("dtype", "int8"),
    ],
)
def test_a_shape_it_cannot_run_is_named(field, value):
    with pytest.raises(ConfigError, match=field):
        ModelConfig.from_dict(TINY | {field: value})


def test_the_newer_models_say_so_among_the_fields_of_linear_attention():
    first, bounded, both = (ModelConfig.from_dict(TINY | fields) for fields in ({}, BOUNDED, FULL_RANK))
    assert (first.gate_lower_bound, first.full_rank_gate, first.first_gates) == (None, False, True)
    assert (bounded.gate_lower_bound, bounded.full_rank_gate, bounded.first_gates) == (-5.0, False, False)
    assert (both.gate_lower_bound, both.full_rank_gate, both.first_gates) == (-5.0, True, False)


@pytest.mark.parametrize(
    "field, value",
    [
        *(("gate_lower_bound", value) for value in (0, 5.0, float("-inf"), float("nan"), "-5", True)),
        *(("use_full_rank_gate", value) for value in (1, "true", None)),
        ("allow_neg_eigval", True),
    ],
)
def test_what_linear_attention_cannot_be_is_named(field, value):
    with pytest.raises(ConfigError, match=field):
        ModelConfig.from_dict(TINY | {"linear_attn_config": TINY["linear_attn_config"] | {field: value}})


@pytest.mark.parametrize("kda, mla", [([1, 2], [3]), ([1, 2, 3, 4], [4]), ([0, 1, 2], [3]), ([1, 2, 3, 4], [])])
def test_layer_lists_name_every_layer_once_counting_from_one(kda, mla):
    lists = TINY["linear_attn_config"] | {"kda_layers": kda, "full_attn_layers": mla}
    with pytest.raises(ConfigError, match="linear_attn_config"):
        ModelConfig.from_dict(TINY | {"linear_attn_config": lists})


def test_an_error_names_the_file(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"config\.json"):
        ModelConfig.from_folder(tmp_path)


@pytest.mark.parametrize(
    "setting",
    [
        {"grid": 32},
        {"max_slots": 0},
        {"page_tokens": 100},
        {"max_tokens": 10},
        {"prefill_tokens_per_step": 100},
    ],
)
def test_an_engine_config_checks_itself(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        EngineConfig(**setting)
