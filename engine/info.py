"""What an engine says of itself."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from engine.cache import Cache
from engine.config import EngineConfig
from engine.model import KimiLinear
from engine.pools import Pools
from kernels import REVISION, gpu
from kernels import cpu as compiled
from kernels.cpu.ops import order_of_sums


@dataclass(frozen=True)
class EngineInfo:
    slots_total: int
    slots_free: int
    pages_total: int
    pages_free: int
    page_tokens: int
    page_bytes: int  # latents of one page over all MLA layers
    snapshot_bytes: int
    device: str
    contract: dict[str, str]  # what, besides the weights and the tokens, decides the bits of a reading


def describe(model: KimiLinear, config: EngineConfig, pools: Pools, cache: Cache) -> EngineInfo:
    return EngineInfo(
        slots_total=config.max_slots,
        slots_free=cache.free_slots,
        pages_total=config.pages,
        pages_free=cache.free_pages,
        page_tokens=config.page_tokens,
        page_bytes=pools.latents[:, 0].nbytes,
        snapshot_bytes=pools.kda[:, 0].nbytes + pools.conv[:, 0].nbytes,
        device=str(model.device),
        contract=_contract(model, config),
    )


def _contract(model: KimiLinear, config: EngineConfig) -> dict[str, str]:
    """The compiled kernels give the same bits in any number of threads, in any company, and of fp32 on every processor;
    of bf16 on those that sum in the same order."""
    common = {"dtype": str(model.weights).removeprefix("torch."), "grid": str(config.grid)}
    if model.compiled:
        order = {"products": order_of_sums()} if model.dtype == torch.bfloat16 else {}
        return common | order | {"kernels": compiled.REVISION}
    cuda = model.device.type == "cuda"
    threads = "any" if cuda or model.config.any_threads else str(torch.get_num_threads())
    libraries = {"triton": _version("triton")} if cuda else {}
    return (
        common
        | libraries
        | {
            "kernels": gpu.REVISION if model.triton else REVISION,
            "torch": torch.__version__,
            "hardware": torch.cuda.get_device_name() if cuda else torch.backends.cpu.get_cpu_capability(),
            "threads": threads,
            "deterministic": str(config.deterministic).lower(),
        }
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # it may lie on the path without having been installed
        return "unknown"
