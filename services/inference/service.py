"""Everything that is loaded once: model, tokenizer, driver, vault; and the name of what results, the fingerprint."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import blake3
import structlog
import torch

from engine import Engine, EngineConfig, EngineInfo, ModelConfig, best_dtype, load_model
from engine.memory import sized
from engine.model import KimiLinear
from engine.weights import expected_inventory
from services.inference import loading
from services.inference.driver import Driver
from services.inference.readings import Readings
from services.inference.settings import InferenceSettings
from services.inference.sources import Sources
from services.inference.text import Tokenizer, load_tokenizer
from services.vault.audit import Audit
from services.vault.keeper import Keeper
from services.vault.manifest import Manifest
from services.vault.metrics import Metrics
from services.vault.sealing import page_tokens
from services.vault.setup import open_vault
from services.vault.vault import Vault

log = structlog.get_logger(__name__)

_SPARE_PAGES = 4  # for the forks that an answer is decoded on


@dataclass(frozen=True)
class Service:
    model: str
    parameters: int
    fingerprint: str
    eos_ids: tuple[int, ...]
    context_tokens: int
    tokenizer: Tokenizer
    driver: Driver
    keeper: Keeper
    audit: Audit
    readings: Readings
    sources: Sources

    @property
    def vault(self) -> Vault:
        return self.keeper.vault

    def close(self) -> None:
        self.driver.stop()
        self.keeper.stop()
        self.vault.store.close()

    def info(self) -> EngineInfo:
        return self.driver.call(Engine.describe)


def load_service(
    settings: InferenceSettings, metrics: Metrics, on_failure: Callable[[], None] = lambda: None
) -> Service:
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    folder = settings.model_dir
    config = ModelConfig.from_folder(folder)
    tokenizer = load_tokenizer(folder, config.vocab_size)
    with loading.shown() as progress:
        model = load_model(folder, settings.device, _dtype(settings), progress=progress)
    engine = Engine(model, engine_config(settings, model))
    info = engine.describe()
    log.info("memory_taken", slots=info.slots_total, tokens=info.pages_total * info.page_tokens, device=info.device)
    mark = fingerprint(folder, tokenizer, info.contract)
    row_bytes = info.page_bytes // info.page_tokens
    empty = Manifest(mark, tokenizer.digest, page_tokens=page_tokens(row_bytes))
    keeper = open_vault(settings.vault(), metrics, empty.page_tokens * row_bytes, _host_memory(settings.device))
    driver = Driver(engine, on_failure)
    readings = Readings(driver, keeper.vault, empty, settings.rung_s, int(settings.history_hours * 3_600_000))
    sources = Sources(keeper.vault, tokenizer)
    driver.forgotten = sources.forget
    audit = Audit(keeper, settings.durability)
    metrics.watch(audit.stock)
    keeper.start()
    log.info("model_loaded", folder=str(folder), fingerprint=mark, contract=info.contract)
    return Service(
        model=folder.resolve().name,
        parameters=sum(prod(shape) for _, shape in expected_inventory(config).values()),
        fingerprint=mark,
        eos_ids=_eos(folder),
        context_tokens=min(config.model_max_length, max(1, info.pages_total - _SPARE_PAGES) * info.page_tokens),
        tokenizer=tokenizer,
        driver=driver,
        keeper=keeper,
        audit=audit,
        readings=readings,
        sources=sources,
    )


def _dtype(settings: InferenceSettings) -> torch.dtype:
    if settings.dtype == "auto":
        return best_dtype(settings.model_dir, settings.device)
    if settings.dtype not in ("float32", "bfloat16", "float16", "int8"):
        known = "auto, float32, bfloat16, float16 and int8"
        raise ValueError(f"SHIORI_ENGINE_DTYPE is {settings.dtype!r}; {known} are known")
    return getattr(torch, settings.dtype)


def engine_config(settings: InferenceSettings, model: KimiLinear) -> EngineConfig:
    """Slots and tokens as set, or as many as fit now.

    On a CPU a step is one chunk of 0.1 s, since cancels, forks and questions wait for it, and bits do not depend on
    steps. On a GPU a step must be large to be fast, and is batched: bits depend on it within a published bound."""
    cpu = settings.device == "cpu"
    step = 64 if cpu else 8192
    config = EngineConfig(prefill_tokens_per_step=step, deterministic=cpu)
    return sized(config, settings.slots, settings.tokens, model.config, model.device, model.dtype)


def _host_memory(device: str) -> Callable[[int], Any]:
    """Pinned for a GPU: it fetches from there by itself."""
    if device == "cpu":
        return bytearray
    return lambda size: torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()


def fingerprint(folder: Path, tokenizer: Tokenizer, contract: dict[str, str]) -> str:
    """The identity of a reading's maker: weights, config, tokenizer, and what else decides bits (dtype, kernels, CPU).

    Computed at every load, never cached beside the file: BLAKE3 takes 30 ms for 64 MiB.
    """
    hasher = blake3.blake3(json.dumps(contract, sort_keys=True).encode() + tokenizer.digest.encode())
    for path in [folder / "config.json", *sorted(folder.glob("*.safetensors"))]:
        file = blake3.blake3(max_threads=blake3.blake3.AUTO)
        file.update_mmap(path)
        hasher.update(file.digest())
    return hasher.hexdigest()


def _eos(folder: Path) -> tuple[int, ...]:
    eos = json.loads((folder / "config.json").read_text()).get("eos_token_id")
    return tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,)
