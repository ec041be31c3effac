"""The tensors of a folder in released format, by name: one file of safetensors, or shards behind an index."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

Shape = tuple[int, ...]
Inventory = dict[str, tuple[torch.dtype, Shape]]  # name: (dtype, shape)


class CheckpointError(ValueError):
    """A checkpoint that does not fit its config.json; the message names the tensors."""


class Checkpoint:
    """The tensors of a folder by name: one model.safetensors, or shards behind an index."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = self.folder / "model.safetensors.index.json"
        files = (
            sorted(set(json.loads(index.read_text())["weight_map"].values()))
            if index.exists()
            else ["model.safetensors"]
        )
        for file in files:
            if not (self.folder / file).exists():
                raise CheckpointError(f"{self.folder / file} does not exist")
        self._shards = [safe_open(self.folder / file, framework="pt") for file in files]
        self._where = {name: shard for shard in self._shards for name in shard.keys()}  # noqa: SIM118

    def inventory(self) -> Inventory:
        return dict(self._headers())

    def _headers(self) -> Iterator[tuple[str, tuple[torch.dtype, Shape]]]:
        for name, shard in self._where.items():
            header = shard.get_slice(name)
            yield name, (_DTYPES.get(header.get_dtype(), torch.uint8), tuple(header.get_shape()))

    def __getitem__(self, name: str) -> Tensor:
        return self._where[name].get_tensor(name)


_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
