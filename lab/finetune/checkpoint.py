"""Where a run stands, on disk: written whole or not at all, so that a killed run goes on from the last one."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import blake3
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

NAME = "checkpoint.safetensors"


class RunError(ValueError):
    """The folder holds another run; the message says what differs and what to do."""


def write(path: Path, content: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(content)
    _settle(part, path)


def _settle(part: Path, path: Path) -> None:
    """The bytes first, then the name."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)


def save(out: Path, net: nn.Module, optimiser: torch.optim.AdamW, step: int) -> None:
    """Weights, moments and the step in one file."""
    tensors = {f"net.{k}": v for k, v in net.state_dict().items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{k}": v for k, v in state.items()}
    part = out / f".{NAME}.part"
    save_file(tensors, part, metadata={"step": str(step)})
    _settle(part, out / NAME)


def load(out: Path, net: nn.Module, optimiser: torch.optim.AdamW) -> int:
    """The step to go on from; 0 where nothing was saved."""
    if not (out / NAME).exists():
        return 0
    with safe_open(out / NAME, framework="pt") as file:
        net.load_state_dict({k: file.get_tensor(f"net.{k}") for k in net.state_dict()})
        whole = optimiser.state_dict()
        for i in whole["param_groups"][0]["params"]:
            whole["state"][i] = {k: file.get_tensor(f"adam.{i}.{k}") for k in ("step", "exp_avg", "exp_avg_sq")}
        optimiser.load_state_dict(whole)
        return int(file.metadata()["step"])


def clear(out: Path) -> None:
    """Takes the run out of the folder, and nothing else."""
    if (out / "run.json").exists():
        for name in (NAME, "before.json", "after.json"):
            (out / name).unlink(missing_ok=True)
        for folder in ("model", ".model.part"):
            shutil.rmtree(out / folder, ignore_errors=True)
        (out / "run.json").unlink()


def digest(*paths: Path) -> str:
    """BLAKE3 of the files' contents, one after another; 16 digits of it, to be read in a refusal."""
    hasher = blake3.blake3()
    for path in paths:
        hasher.update_mmap(path)
    return hasher.hexdigest()[:16]


def claim(out: Path, run: dict[str, Any]) -> None:
    """Makes the folder this run's. Raises RunError when it holds a run that was begun otherwise."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "run.json"
    if not path.exists():
        if any(out.iterdir()):
            raise RunError(f"{out} is not empty and holds no run of shiori train: name another --out")
        return write(path, json.dumps(run, indent=1) + "\n")
    begun = json.loads(path.read_text())
    differs = [f"{k} was {begun.get(k)}, is {v}" for k, v in run.items() if begun.get(k) != v]
    if differs:
        raise RunError(f"{out} holds a run begun otherwise ({'; '.join(differs)}): name another --out, or --no-resume")
