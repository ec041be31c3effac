"""The released 48B-A3B shape with random weights, made on the device: speed without 98 GB of files.

Random numbers change one cost only: a random router spreads tokens evenly over the experts, as a trained one should.
"""

import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from engine import Engine, EngineConfig, ModelConfig, SamplingParams, Token
from engine.model import KimiLinear
from engine.weights import build_model, expected_inventory

RELEASED = Path(__file__).parents[1] / "tests" / "engine" / "data" / "48b"  # its config.json
STEP = 8192  # tokens of one prefill step


class RandomCheckpoint:
    """Every tensor of a checkpoint by name, made when asked for. The same order of names gives the same model."""

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        self._inventory, self._device = expected_inventory(config), device
        self._generator = torch.Generator(device).manual_seed(0)

    def __getitem__(self, name: str) -> Tensor:
        dtype, shape = self._inventory[name]
        return self._fill(name, torch.empty(shape, dtype=dtype, device=self._device))

    def _fill(self, name: str, x: Tensor) -> Tensor:
        if name.endswith("A_log"):
            return x.uniform_(1, 16, generator=self._generator).log_()
        if name.endswith("dt_bias"):
            step = x.uniform_(math.log(1e-3), math.log(1e-1), generator=self._generator).exp_()
            return step + torch.log(-torch.expm1(-step))
        if "norm" in name:
            return x.normal_(1, 0.1, generator=self._generator)
        spread = 0.01 if name.endswith("bias") else x.shape[-1] ** -0.5
        return x.normal_(0, spread, generator=self._generator)


class AllMla(ModelConfig):
    """A shape without the recurrent layers that this engine asks for: what the hybrid is compared with."""

    def __post_init__(self) -> None:
        pass


def all_mla(config: ModelConfig) -> ModelConfig:
    """The same shape with MLA in every layer."""
    changed = vars(config) | {"kda_layers": (), "mla_layers": tuple(range(config.num_layers))}
    return AllMla(**changed)


def random_48b(device: str = "cuda", config: ModelConfig | None = None) -> KimiLinear:
    config, place = config or ModelConfig.from_folder(RELEASED), torch.device(device)
    return build_model(config, RandomCheckpoint(config, place), place, torch.bfloat16)  # type: ignore[arg-type]


def engine_of(model: KimiLinear, tokens: int, slots: int = 6, step: int = STEP, deterministic: bool = False) -> Engine:
    return Engine(model, EngineConfig(slots, tokens, prefill_tokens_per_step=step, deterministic=deterministic))


def some_ids(engine: Engine, count: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(engine.model.config.vocab_size), k=count)


def steps(engine: Engine) -> Iterator[tuple[float, list[int]]]:
    """Runs what was asked for: the seconds and the decoded tokens of every step. A step ends with the device idle."""
    while engine.busy:
        began = time.perf_counter()
        events = engine.step()
        torch.cuda.synchronize() if engine.model.device.type == "cuda" else None
        yield time.perf_counter() - began, [event.id for event in events if isinstance(event, Token)]


def read(engine: Engine, sequence: int, ids: list[int]) -> list[float]:
    engine.read(sequence, ids)
    return [seconds for seconds, _ in steps(engine)]


def decode(engine: Engine, sequence: int, count: int) -> tuple[list[int], list[float]]:
    """Greedy tokens and the seconds of each step."""
    engine.generate(sequence, SamplingParams(max_tokens=count))
    pairs = list(steps(engine))
    return [token for _, tokens in pairs for token in tokens], [seconds for seconds, _ in pairs]
