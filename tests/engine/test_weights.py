import json
from math import prod
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import CheckpointError, ModelConfig, check_inventory, load_model
from engine.testing import FULL_RANK, TINY, random_tensors, save_random_checkpoint
from engine.weights import expected_inventory
from tests.engine.driving import engine_of, read, some_ids, state

RELEASED = Path(__file__).parent / "data" / "48b"


def released_inventory():
    """The 48B checkpoint by the tables of model-spec §3.1, spelled out independently of the engine's own table."""
    bf16, fp32 = torch.bfloat16, torch.float32
    kda = {f"{x}_proj.weight": (4096, 2304) for x in "qkv"} | {f"{x}_conv1d.weight": (4096, 1, 4) for x in "qkv"}
    kda |= {"f_a_proj.weight": (128, 2304), "f_b_proj.weight": (4096, 128), "b_proj.weight": (32, 2304)}
    kda |= {"g_a_proj.weight": (128, 2304), "g_b_proj.weight": (4096, 128)}
    kda |= {"A_log": (1, 1, 32, 1), "dt_bias": (4096,), "o_norm.weight": (128,), "o_proj.weight": (2304, 4096)}
    mla = {"q_proj.weight": (6144, 2304), "kv_a_proj_with_mqa.weight": (576, 2304), "kv_a_layernorm.weight": (512,)}
    mla |= {"kv_b_proj.weight": (8192, 512), "o_proj.weight": (2304, 4096)}
    moe = {"gate.weight": (256, 2304), "gate.e_score_correction_bias": (256,)}
    for e in range(256):
        moe |= {f"experts.{e}.w{n}.weight": (2304, 1024) if n == 2 else (1024, 2304) for n in (1, 2, 3)}
    moe |= {f"shared_experts.{x}_proj.weight": (1024, 2304) for x in ("gate", "up")}
    moe |= {"shared_experts.down_proj.weight": (2304, 1024)}
    dense = {"gate_proj.weight": (9216, 2304), "up_proj.weight": (9216, 2304), "down_proj.weight": (2304, 9216)}
    shapes = {
        "model.embed_tokens.weight": (163840, 2304),
        "lm_head.weight": (163840, 2304),
        "model.norm.weight": (2304,),
    }
    for i in range(27):
        p = f"model.layers.{i}."
        shapes |= {p + "input_layernorm.weight": (2304,), p + "post_attention_layernorm.weight": (2304,)}
        shapes |= {f"{p}self_attn.{n}": s for n, s in (mla if i in (3, 7, 11, 15, 19, 23, 26) else kda).items()}
        shapes |= (
            {f"{p}mlp.{n}": s for n, s in dense.items()}
            if i == 0
            else {f"{p}block_sparse_moe.{n}": s for n, s in moe.items()}
        )
    return {n: (fp32 if n.endswith(("A_log", "dt_bias")) else bf16, s) for n, s in shapes.items()}


def test_the_released_48b_checkpoint_fits():
    config, found = ModelConfig.from_folder(RELEASED), released_inventory()
    check_inventory(config, found)
    assert len(found) == 20_493
    assert sum(prod(shape) for _, shape in found.values()) == 49_122_681_728
    fp32 = {name for name, (dtype, _) in expected_inventory(config).items() if dtype == torch.float32}
    assert {name.split(".")[-1] for name in fp32} == {"A_log", "dt_bias"} and len(fp32) == 40


@pytest.fixture
def folder(tmp_path):
    return save_random_checkpoint(tmp_path / "model")


def change(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


NAME = "model.layers.1.self_attn.dt_bias"


@pytest.mark.parametrize(
    "edit, says",
    [
        (lambda t: t.pop(NAME), f"missing tensors: {NAME}"),
        (lambda t: t.update({"model.layers.1.self_attn.g_b_proj.bias": torch.zeros(4)}), "unknown .*g_b_proj.bias"),
        (lambda t: t.update({NAME: t[NAME].bfloat16()}), f"{NAME} is torch.bfloat16"),
        (lambda t: t.update({NAME: t[NAME][:2].clone()}), rf"{NAME} is torch.float32 \[2\], expected .*\[32\]"),
        (
            lambda t: t.update({"model.norm.weight": t["model.norm.weight"].float()}),
            "model.norm.weight is torch.float32",
        ),
    ],
    ids=["missing", "unknown", "gate in bf16", "shape", "dtype"],
)
def test_what_does_not_fit_is_refused_by_name(folder, edit, says):
    change(folder, edit)
    with pytest.raises(CheckpointError, match=says):
        load_model(folder)


def test_a_tied_model_has_no_head_of_its_own(tmp_path):
    fields = TINY | {"tie_word_embeddings": True}
    folder = save_random_checkpoint(tmp_path, fields)
    model = load_model(folder)
    assert model.head.weight is model.embedding
    change(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    with pytest.raises(CheckpointError, match=r"unknown tensors: lm_head\.weight"):
        load_model(folder)


def test_an_output_gate_of_full_rank_is_one_tensor(tmp_path):
    folder = save_random_checkpoint(tmp_path, TINY | FULL_RANK)
    names = load_file(folder / "model.safetensors").keys()
    assert {n for n in names if "layers.0.self_attn.g_" in n} == {"model.layers.0.self_attn.g_proj.weight"}
    assert load_model(folder).layers[0].mixer.g_b is None
    change(folder, lambda t: t.update({"model.layers.0.self_attn.g_a_proj.weight": torch.zeros(16, 64).bfloat16()}))
    with pytest.raises(CheckpointError, match=r"unknown tensors: .*g_a_proj\.weight"):
        load_model(folder)


def test_shards_behind_an_index_give_the_same_model(folder, tmp_path):
    tensors = random_tensors(ModelConfig.from_dict(TINY), seed=0)
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    (sharded / "config.json").write_text(json.dumps(TINY))
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, sharded / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    states = []
    for path in (folder, sharded):
        engine = engine_of(load_model(path))
        sequence = engine.open()
        read(engine, sequence, some_ids(30))
        states.append(state(engine, sequence))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    (sharded / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"b\.safetensors does not exist"):
        load_model(sharded)
