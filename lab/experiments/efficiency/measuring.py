"""Time and memory of reading and decoding in the engine, by length: a hybrid, and its shape with MLA in every layer.

Random weights; a context that is decoded at is random latents, put there, not read (bench/gpu_rates.py).
"""

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.gpu_model import RandomCheckpoint, all_mla, engine_of, some_ids, steps
from bench.gpu_rates import at, cache_bytes, some_latents, step_ms
from engine import Engine, ModelConfig
from engine.model import KimiLinear
from engine.weights import build_model, expected_inventory

ROOM = 512  # tokens of the page pool beside the context
WIDER = 64  # an MLP is made wider by multiples of this


def shape(settings: dict[str, Any], kind: str) -> ModelConfig:
    """The shape named in the settings: a folder's config.json with the fields beside it changed."""
    changes = dict(settings["shapes"][settings["shape"]])
    fields = json.loads((Path(changes.pop("folder")) / "config.json").read_text())
    config = ModelConfig.from_dict(fields | changes)
    return widened(all_mla(config), parameters(config)) if kind == "mla" else config


def widened(config: ModelConfig, wanted: int) -> ModelConfig:
    """MLPs, or experts where there are any, as wide as comes nearest to so many parameters."""
    name = "intermediate_size" if config.first_k_dense_replace == config.num_layers else "moe_intermediate_size"

    def wider(steps: int) -> ModelConfig:
        return type(config)(**vars(config) | {name: getattr(config, name) + steps * WIDER})

    each = parameters(wider(1)) - parameters(config)
    return wider(round((wanted - parameters(config)) / each))


def model_of(config: ModelConfig, device: torch.device) -> KimiLinear:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return build_model(config, RandomCheckpoint(config, device), device, dtype)  # type: ignore[arg-type]


def parameters(config: ModelConfig) -> int:
    return sum(torch.Size(shape).numel() for _, shape in expected_inventory(config).values())


def prefill(model: KimiLinear, lengths: Sequence[int], step: int, limit: float) -> dict[int, float]:
    """Seconds until each length is read, in one reading of the longest that ``limit`` seconds reach."""
    engine = engine_of(model, max(lengths) + 2 * step, slots=2, step=step)
    list(reading(engine, 2 * step))  # kernels are compiled, memory is taken
    clock, found = 0.0, {}
    for read, seconds in reading(engine, max(lengths), limit):
        clock += seconds
        found |= {length: clock for length in lengths if length not in found and length <= read}
    return found


def reading(engine: Engine, tokens: int, limit: float = float("inf")) -> Iterator[tuple[int, float]]:
    """(tokens read so far, seconds of the step), step by step; broken off when the seconds are up."""
    sequence, spent = engine.open(), 0.0
    request = engine.read(sequence, some_ids(engine, tokens))
    for seconds, _ in steps(engine):
        spent += seconds
        yield engine.position(sequence), seconds
        if spent > limit:
            engine.abort(request)
    engine.close(sequence)


def decode(model: KimiLinear, length: int, step: int, tokens: int) -> dict[str, float]:
    """Median ms of a decoded token with ``length`` tokens before it, alone; bytes that this context holds."""
    engine = engine_of(model, length + step + ROOM, slots=2, step=step)
    sequence = at(engine, length, some_latents(engine))
    engine.read(sequence, some_ids(engine, 4))
    list(steps(engine))
    found = {"decode_ms": statistics.median(step_ms(engine, [sequence], tokens))}
    return found | {"cache_bytes": cache_bytes(engine, length)}


def operators(heads: int, length: int) -> dict[str, float]:
    """ms of one layer's recurrence over ``length`` tokens: our KDA, flash-linear-attention's KDA and its GDN."""
    from bench.h200.kda_prefill import Batch
    from bench.h200.measuring import eager_ms

    batch = Batch([length], heads)
    g, beta = gate_of_a_head(batch), batch.b.float().sigmoid()
    runs = {"kda": batch.ours, "fla_kda": batch.fla, "fla_gdn": lambda: gdn(batch, g, beta)}
    return {name: eager_ms(run, 0.1) for name, run in runs.items()}


def gate_of_a_head(batch: Any) -> Tensor:
    """Log decay [T,H]: the first channel's of KDA's gate, for all channels of a head."""
    bias = batch.dt_bias.view(batch.H, -1)[:, 0]
    return -batch.A_log.exp() * torch.nn.functional.softplus(batch.a[..., 0].float() + bias)


def gdn(batch: Any, g: Tensor, beta: Tensor) -> Any:
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    with torch.inference_mode():
        return chunk_gated_delta_rule(
            *(x[None] for x in (batch.q, batch.k, batch.v, g, beta)),
            initial_state=batch.state, output_final_state=True, use_qk_l2norm_in_kernel=True,
        )  # fmt: skip
