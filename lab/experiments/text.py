"""Running text for the small models: parcels of tokens (lab.parcel) as one stream, and what is held out of them."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lab.parcel import read
from lab.tokenizer import DOC, FILE, SPECIALS

TOKENIZER = Path(__file__).parents[1] / "model/tokenizer.json"


@dataclass(frozen=True)
class Text:
    """``train``, ``held`` [N] int16: texts one after another, a mark before each. ``bytes`` [vocabulary] int64."""

    train: Tensor
    held: Tensor
    bytes: Tensor

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> "Text":
        """FileNotFoundError: the folder lacks held.xz or any other parcel."""
        parcels = sorted(folder.glob("[0-9].xz"))
        if not parcels or not (folder / "held.xz").exists():
            raise FileNotFoundError(f"no parcels in {folder}: python -m lab.parcel pack {folder} 0 1 2")
        parts = (stream(parcels), stream([folder / "held.xz"]), token_bytes())
        return cls(*(torch.from_numpy(x).to(device) for x in parts))


def stream(files: list[Path]) -> np.ndarray:
    """int16: ids are below 16,384."""
    with ThreadPoolExecutor() as pool:  # lzma holds no lock
        return np.concatenate(list(pool.map(marked, files)))


def marked(file: Path) -> np.ndarray:
    parts = []
    for kind, ends, tokens in read(file):
        starts = np.concatenate([[0], ends[:-1]])
        parts.append(np.insert(tokens, starts, FILE if kind == "code" else DOC).astype(np.int16))
    return np.concatenate(parts)


def token_bytes() -> np.ndarray:
    """Bytes of text that each id stands for: a byte is a letter of a byte-level vocabulary; marks have none."""
    ids = json.loads(TOKENIZER.read_text())["model"]["vocab"]
    lengths = np.zeros(len(ids), np.int64)
    for string, number in ids.items():
        lengths[number] = 0 if number < len(SPECIALS) else len(string)
    return lengths


def windows(stream: Tensor, starts: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Tokens and the next of each, int64 [windows · length], of ``length`` tokens from every start [windows]."""
    at = starts[:, None] + torch.arange(length + 1, device=stream.device)
    found = stream[at].long()
    return found[:, :-1].flatten(), found[:, 1:].flatten()
