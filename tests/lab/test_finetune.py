"""`shiori train` as a process: it learns, what it writes is a model for the engine, and kill -9 costs nothing."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from engine import load_model
from engine.testing import BOUNDED, TINY, save_random_checkpoint
from kernels.kda import kda_recurrence
from lab.export import save_model
from lab.finetune import checkpoint
from lab.finetune.rows import read_rows
from lab.finetune.run import Settings, divided, net_of
from lab.finetune.score import Judge
from lab.kda_cpu import remember_in_chunks
from lab.net import Row
from services.cli.main import app
from services.inference.service import fingerprint
from services.inference.text import load_tokenizer

ROOT = Path(__file__).parents[2]
DATA, VALID = ROOT / "examples/job-cards.jsonl", ROOT / "examples/job-cards.valid.jsonl"
CPU = torch.device("cpu")
SHIORI = [sys.executable, "-m", "services.cli"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of a hundredth of the shipped one's size, with its tokenizer."""
    fields = TINY | {"vocab_size": 16384, "routed_scaling_factor": 1.0, "tie_word_embeddings": True}
    folder = save_random_checkpoint(tmp_path_factory.mktemp("tiny"), fields)
    (folder / "tokenizer.json").write_bytes((ROOT / "lab/model/tokenizer.json").read_bytes())
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of every kind: questions on two of the worked example's texts, the texts themselves, their beginnings."""
    lines = DATA.read_text().splitlines()[:10]
    for text in dict.fromkeys(json.loads(line)["text"] for line in lines):
        lines += [json.dumps({"text": text}), json.dumps({"text": text, "summary": [text[: text.index(".") + 1]]})]
    return file_of(tmp_path_factory, lines)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return file_of(tmp_path_factory, VALID.read_text().splitlines()[5:10])


def file_of(factory: pytest.TempPathFactory, lines: list[str]) -> Path:
    path = factory.mktemp("rows") / "rows.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def train(tiny: Path, data: Path, valid: Path) -> Callable[..., list[str]]:
    """The command line of `shiori train` into a folder, and what else it is told."""

    def command(out: Path, *more: str) -> list[str]:
        where = ["--data", str(data), "--valid", str(valid), "--model", str(tiny), "--out", str(out)]
        return ["train", *where, "--steps", "12", "--rate", "0.01", *more]

    return command


def run(arguments: list[str]) -> None:
    done = subprocess.run([*SHIORI, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def unbroken(train: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    run(train(out))
    return out


def test_it_learns_and_says_so(unbroken: Path) -> None:
    before, after = (json.loads((unbroken / f"{when}.json").read_text()) for when in ("before", "after"))
    assert after["perplexity_answer"]["value"] < before["perplexity_answer"]["value"] / 4
    assert {"accuracy", "f1", "said_not_in_text", "false_refusals", "perplexity_answer"} <= after.keys()
    assert after["accuracy"]["n"] == 5


def test_what_it_writes_is_a_model_for_the_engine_and_another_one(unbroken: Path, tiny: Path) -> None:
    model = unbroken / "model"
    assert load_model(model, compiled_kernels=False).head.weight.shape == (16384, 64)
    tokenizer = load_tokenizer(model, 16384)
    assert fingerprint(model, tokenizer, {}) != fingerprint(tiny, tokenizer, {})
    assert not (unbroken / checkpoint.NAME).exists(), "what is of no more use is cleared away"


def test_a_killed_run_goes_on_and_ends_with_the_same_bits(
    train: Callable[..., list[str]], unbroken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    for step in (1, 2):  # a checkpoint follows the first step of every process
        assert killed_behind(step, train(out), out), "the run was over before it could be killed"
    run(train(out))
    for name in ("model/model.safetensors", "model/config.json", "before.json", "after.json"):
        assert (out / name).read_bytes() == (unbroken / name).read_bytes()


def killed_behind(step: int, arguments: list[str], out: Path) -> bool:
    """Starts it, and kills it with -9 as soon as its checkpoint is at the step or later."""
    process = subprocess.Popen([*SHIORI, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if step_of(out) >= step:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.002)
    return process.returncode == -signal.SIGKILL and not (out / "model").exists()


def step_of(out: Path) -> int:
    if not (out / checkpoint.NAME).exists():
        return -1
    with safe_open(out / checkpoint.NAME, framework="pt") as file:
        return int(file.metadata()["step"])


def test_a_run_that_is_done_only_says_what_it_found(train: Callable[..., list[str]], unbroken: Path) -> None:
    made = (unbroken / "model/model.safetensors").stat().st_mtime_ns
    done = CliRunner().invoke(app, train(unbroken))
    assert done.exit_code == 0 and "perplexity_answer" in done.stdout
    assert (unbroken / "model/model.safetensors").stat().st_mtime_ns == made


def test_another_run_s_folder_is_refused_until_told_to_begin_anew(
    train: Callable[..., list[str]], unbroken: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(unbroken, tmp_path / "out"))
    refused = CliRunner().invoke(app, train(out, "--steps", "1"))
    assert refused.exit_code == 2
    assert "steps was 12, is 1" in refused.stderr and "--no-resume" in refused.stderr
    assert CliRunner().invoke(app, train(out, "--steps", "1", "--no-resume")).exit_code == 0
    assert json.loads((out / "run.json").read_text())["steps"] == 1
    assert (out / "model/model.safetensors").read_bytes() != (unbroken / "model/model.safetensors").read_bytes()


def test_a_folder_of_other_things_is_left_alone(train: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for more in ([], ["--no-resume"]):
        done = CliRunner().invoke(app, train(tmp_path, *more))
        assert done.exit_code == 2 and "not empty" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_wrong_rows_and_wrong_models_end_the_command_before_anything_is_trained(tiny: Path, tmp_path: Path) -> None:
    def told(data: Path, model: Path = tiny, *more: str) -> str:
        arguments = ["--data", str(data), "--model", str(model), "--out", str(tmp_path / "out"), *more]
        done = CliRunner().invoke(app, ["train", *arguments])
        assert done.exit_code == 2 and not (tmp_path / "out").exists()
        return done.stderr

    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "One.", "question": "Two?", "answer": "Two."}\n')
    assert "bad.jsonl:1: " in told(bad)
    assert "have a text that is in" in told(DATA, tiny, "--valid", str(DATA))
    assert "has no config.json" in told(DATA, tmp_path)
    for field, fields in (("routed_scaling_factor 1.5", {}), ("gate_lower_bound -5.0", BOUNDED)):
        other = save_random_checkpoint(tmp_path / field, TINY | fields)
        (other / "tokenizer.json").write_bytes((tiny / "tokenizer.json").read_bytes())
        assert field in told(DATA, other)


def test_held_out_texts_are_in_no_step(tiny: Path, tmp_path: Path) -> None:
    settings = Settings(DATA, None, tiny, tmp_path, 1, None, 1e-4, 3)
    rows, valid = divided(settings)
    assert {r.text for r in rows}.isdisjoint({r.text for r in valid})
    assert len(rows) + len(valid) == 110 and len({r.text for r in valid}) == 2
    assert divided(settings) == (rows, valid)
    assert divided(dataclasses.replace(settings, seed=4))[1] != valid


@pytest.mark.parametrize("tied", [True, False])
def test_the_training_model_and_the_engine_give_a_token_the_same_probability(
    tiny: Path, tmp_path: Path, tied: bool
) -> None:
    """From the file, and again from what is written back: a head of its own is kept, one that is tied is stored."""
    config = json.loads((tiny / "config.json").read_text()) | {"tie_word_embeddings": tied}
    folder, back = save_random_checkpoint(tmp_path / "one", config, seed=1), tmp_path / "two"
    (folder / "tokenizer.json").write_bytes((tiny / "tokenizer.json").read_bytes())
    net = net_of(folder, CPU)
    save_model(net, back)
    (back / "tokenizer.json").write_bytes((tiny / "tokenizer.json").read_bytes())
    judges = [Judge(folder, CPU), Judge(back, CPU)]
    ids = judges[0].vocab.encode(read_rows(DATA)[0].text * 3).astype("int64").tolist()
    row = Row(torch.tensor([0, len(ids)], dtype=torch.int32), CPU)
    with torch.no_grad():
        losses = net.losses(net.hidden(torch.tensor(ids), row)[0][:-1], torch.tensor(ids[1:]))
    for judge in judges:
        torch.testing.assert_close(losses, torch.tensor(judge.losses(ids)), atol=2e-3, rtol=0)


def recurrence(q, k, v, decay, beta, a_log, dt_bias, sizes: list[int]) -> torch.Tensor:
    """fp64, token by token, by the kernels' definition."""
    q, k = (x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6) for x in (q, k))
    g = -a_log.exp()[:, None] * torch.nn.functional.softplus(decay + dt_bias.view(decay.shape[1:]))
    blank = torch.zeros(q.shape[1], q.shape[2], v.shape[2], dtype=torch.float64)
    parts = zip(*(x.split(sizes) for x in (q * q.shape[-1] ** -0.5, k, v, g, beta.sigmoid())), strict=True)
    return torch.cat([kda_recurrence(*part, blank)[0] for part in parts])


def test_kda_in_chunks_is_the_recurrence_forwards_and_backwards() -> None:
    """Gates from gentle to e^-200 a token; sequences that end within a chunk, at its edge and beyond."""
    torch.manual_seed(0)
    sizes, heads, width = [1, 64, 63, 130], 2, 16
    n = sum(sizes)
    ends = torch.tensor([0, *sizes], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    parts = [torch.randn(n, heads, width) for _ in range(3)]
    gates = [torch.randn(n, heads, width) * 6, torch.randn(n, heads), torch.tensor([0.0, 2.5]), torch.randn(32)]
    given = [x.requires_grad_() for x in (*parts, *gates)]
    exact = [x.detach().double().requires_grad_() for x in given]
    o, wanted = remember_in_chunks(*given, Row(ends, CPU)), recurrence(*exact, sizes)
    torch.testing.assert_close(o.double(), wanted, atol=2e-6, rtol=1e-5)
    weight = torch.randn(n, heads, width)
    grads = torch.autograd.grad((o * weight).sum(), given)
    for found, right in zip(grads, torch.autograd.grad((wanted * weight).sum(), exact), strict=True):
        assert float((found - right).norm() / right.norm()) < 1e-5
