"""A run that is cut in two goes on: weights, moments, place in the plan, counters; elsewhere, from the weights."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.config import ModelConfig
from engine.weights import check_inventory
from lab import probe
from lab.export import save_model, tensors
from lab.net import Net, Row, read_config
from lab.optim import Optimiser
from lab.restart import State, read_state, resume, save
from lab.weights import pack
from tests.lab.small import make_corpus, make_tables

ROOT = Path(__file__).parents[2]
TINY = {
    "vocab_size": 16384,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 32,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "moe_intermediate_size": 16,
    "linear_attn_config": {
        "num_heads": 2,
        "head_dim": 16,
        "short_conv_kernel_size": 4,
        "kda_layers": [1, 2, 3],
        "full_attn_layers": [4],
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The folder that remote.sh unpacks: tables, corpus, and as much again that is held out."""
    out = tmp_path_factory.mktemp("data")
    make_tables(out / "tables")
    make_corpus(out)
    shutil.copytree(out / "tables", out / "held/tables")
    shutil.copytree(out / "corpus", out / "held/corpus")
    (out / "tiny.json").write_text(json.dumps(read_config(ROOT / "lab/shape.json") | TINY))
    return out


def train(data: Path, out: Path, processes: int, *options: str) -> list[dict]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += ["-m", "lab.train", "--data", str(data), "--out", str(out), "--config", str(data / "tiny.json")]
    command += ["--eager", "--tokens", "128", "--workers", "1", *options]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def stopped(data: Path) -> Path:
    """What two processes left after four steps, half way through the plan."""
    train(data, data / "run", 2, "--steps", "4", "--plan-to", "0.5")
    assert read_state(data / "run/state.json") == State(step=4, tokens=4 * 2 * 128, plan=0.5, warm_from=0, run=0)
    return data / "run"


def test_another_machine_begins_with_the_weights(data: Path, stopped: Path, tmp_path: Path):
    """Eight bits a weight travel; the counters go on and the rate is warmed up anew."""
    (tmp_path / "journey").mkdir()
    pack(stopped / "weights.safetensors", tmp_path / "journey/weights.safetensors")
    shutil.copy(stopped / "state.json", tmp_path / "journey/state.json")
    travelled = str(tmp_path / "journey/weights.safetensors")
    lines = train(data, tmp_path / "there", 1, "--weights", travelled, "--steps", "1", "--plan-to", "0.75")
    state = read_state(tmp_path / "there/state.json")
    assert state == State(step=5, tokens=9 * 128, plan=0.75, warm_from=4, run=1)
    assert lines[0]["step"] == 5 and lines[0]["rate"] < 0.02


def test_two_processes_go_on_where_they_stopped(data: Path, stopped: Path):
    lines = train(data, stopped, 2, "--steps", "2", "--plan-to", "0.75", "--probe")
    assert read_state(stopped / "state.json") == State(step=6, tokens=6 * 2 * 128, plan=0.75, warm_from=0, run=1)
    assert [line["step"] for line in lines] == [1, 2, 3, 5, 6]
    probed = [json.loads((stopped / f"probe-{rank}.json").read_text()) for rank in range(2)]
    assert len(probed[0] | probed[1]) == len(probe.TASKS)


def test_where_the_time_of_a_step_goes_is_written_down(data: Path, tmp_path: Path):
    train(data, tmp_path, 1, "--steps", "14", "--plan-to", "0.1", "--profile")
    assert "Self CPU" in (tmp_path / "profile.txt").read_text()


def test_a_checkpoint_gives_back_weights_and_moments(tmp_path: Path):
    config = read_config(ROOT / "lab/shape.json") | TINY
    nets = [Net(config, torch.float32) for _ in range(2)]
    optimisers = [Optimiser(net, 5e-3, 3e-3) for net in nets]
    one_step(nets[0], optimisers[0], 1)
    save(nets[0], optimisers[0], State(step=1, tokens=10, plan=0.1), tmp_path)
    assert resume(nets[1], optimisers[1], tmp_path, None) == State(step=1, tokens=10, plan=0.1, run=1)
    for net, optimiser in zip(nets, optimisers, strict=True):
        one_step(net, optimiser, 2)
    for name, x in tensors(nets[0], copy=False).items():
        assert torch.equal(x, tensors(nets[1], copy=False)[name]), name


def one_step(net: Net, optimiser: Optimiser, seed: int) -> None:
    tokens = torch.randint(16, 1000, (24,), generator=torch.Generator().manual_seed(seed))
    x, _ = net.hidden(tokens, Row(torch.tensor([0, 24], dtype=torch.int32), "cpu"))
    net.losses(x, tokens.roll(-1)).mean().backward()
    optimiser.step(1.0)


def test_a_head_of_its_own_begins_as_the_embedding(tmp_path: Path):
    """Tied first, apart later: the tied weights file, read into a net that has a head."""
    config = read_config(ROOT / "lab/shape.json") | TINY
    tied, apart = (Net(config | {"tie_word_embeddings": one}, torch.float32) for one in (True, False))
    save(tied, Optimiser(tied, 5e-3, 3e-3), State(step=1), tmp_path)
    resume(apart, Optimiser(apart, 5e-3, 3e-3), tmp_path / "none", tmp_path / "weights.safetensors")
    assert torch.equal(apart.lm_head, apart.embed_tokens)
    tokens = torch.randint(16, 1000, (24,))
    row = Row(torch.tensor([0, 24], dtype=torch.int32), "cpu")
    logits = [net.logits(net.hidden(tokens, row)[0]) for net in (tied, apart)]
    assert torch.allclose(*logits, atol=2e-2)  # the file is bf16


def test_the_shape_that_is_trained_fits_the_file_and_the_engine(tmp_path: Path):
    save_model(Net(read_config(ROOT / "lab/shape.json")), tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size <= 64 * 2**20
    config = ModelConfig.from_folder(tmp_path)
    assert not config.tie_word_embeddings
    weights = load_file(tmp_path / "model.safetensors")
    check_inventory(config, {name: (x.dtype, tuple(x.shape)) for name, x in weights.items()})
