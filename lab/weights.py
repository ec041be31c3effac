"""Read a checkpoint in the released format into the training model; eight-bit copies for the journey.

`python -m lab.weights DIR/weights.safetensors lab/model`: what a run brought back becomes the model that ships.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lab.export import save_model, tensors
from lab.net import Net, read_config


def load_into(net: Net, found: dict[str, torch.Tensor]) -> None:
    """Every tensor of the file into its place: the views that `export` cuts are filled from it.

    A head of its own begins as the embedding where the file has none: tied first, apart later.
    """
    found = {"lm_head.weight": found["model.embed_tokens.weight"]} | found
    with torch.no_grad():
        for name, place in views(net).items():
            place.copy_(found[name].to(place))


def views(net: Net) -> dict[str, torch.Tensor]:
    """The exported tensors as views of the live parameters."""
    return tensors(net, copy=False)


def squeeze(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices as eight-bit integers with a scale for each row."""
    out = {}
    for name, x in found.items():
        if x.dim() == 2 and x.shape[1] >= 64:
            scale = x.float().abs().amax(1, keepdim=True) / 127
            out |= {f"q.{name}": (x.float() / scale).round().to(torch.int8), f"s.{name}": scale}
        else:
            out[name] = x
    return out


def unsqueeze(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    plain = {k: v for k, v in found.items() if k[:2] not in ("q.", "s.")}
    return plain | {k[2:]: v.float() * found["s." + k[2:]] for k, v in found.items() if k[:2] == "q."}


def read(file) -> dict[str, torch.Tensor]:
    return unsqueeze(load_file(file))


def pack(source, out) -> None:
    save_file(squeeze(load_file(source)), out)


def ship(weights: Path, folder: Path) -> None:
    net = Net(read_config(Path("lab/shape.json")), torch.float32)
    load_into(net, read(weights))
    save_model(net, folder)


if __name__ == "__main__":
    ship(Path(sys.argv[1]), Path(sys.argv[2]))
