"""What there is to compute on: whether the engine runs on a device, and how much of its memory is free."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

LOWEST = (8, 0)  # compute capability: bf16 products, and copies into shared memory beside the computing


class DeviceError(RuntimeError):
    """A device that is not there, or that the kernels do not run on."""


class Memory(NamedTuple):
    free: int  # bytes
    total: int


def usable(device: str | torch.device) -> torch.device:
    """The device, if the engine runs on it."""
    found = torch.device(device)
    if found.type == "cuda":
        if not torch.cuda.is_available():
            raise DeviceError(
                f"device {device}: torch {torch.__version__} sees no CUDA device. Look at nvidia-smi, and whether this "
                "torch was built for CUDA; SHIORI_ENGINE_DEVICE=cpu runs without one"
            )
        name, (major, minor) = torch.cuda.get_device_name(found), torch.cuda.get_device_capability(found)
        if (major, minor) < LOWEST:
            lowest = ".".join(map(str, LOWEST))
            raise DeviceError(f"{name} has compute capability {major}.{minor}; the kernels need {lowest} or higher")
    return found


def memory(device: torch.device) -> Memory:
    """What the process may still take: of a GPU with what torch holds unused; of the host within its control groups."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return Memory(*torch.cuda.mem_get_info(device))
    host = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in Path("/proc/meminfo").read_text().splitlines()}
    free, total = host["MemAvailable"], host["MemTotal"]
    for limit, used in _control_groups():
        free, total = min(free, limit - used), min(total, limit)
    return Memory(max(0, free), total)


def _control_groups(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> Iterator[tuple[int, int]]:
    """(limit, used) of every group around this process that limits memory; file cache gives way, so it is not used.

    In a container the folder of the own group is often not there, but the root is, and is then the container's.
    """
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, names = (root / "memory", _VERSION_1) if controllers else (root, _VERSION_2)
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            limit = _number(folder / names.limit)
            if limit is not None and folder.is_relative_to(top):
                used = (_number(folder / names.used) or 0) - _cache(folder / "memory.stat", names.cache)
                yield limit, max(0, used)


class _Names(NamedTuple):
    limit: str
    used: str
    cache: tuple[str, str]  # lines of memory.stat


_VERSION_2 = _Names("memory.max", "memory.current", ("inactive_file", "active_file"))
_VERSION_1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))


def _number(file: Path) -> int | None:
    """None where there is no such file, or no limit (the word "max")."""
    text = file.read_text().strip() if file.exists() else ""
    return int(text) if text.isdigit() else None


def _cache(stat: Path, names: tuple[str, str]) -> int:
    lines = [line.split() for line in stat.read_text().splitlines()] if stat.exists() else []
    return sum(int(count) for name, count in lines if name in names)
