"""What the engine is told about its vault, and how much the embedded Redis may hold."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from services.local import ports

METRICS_PORT = 9464
LEAST_REDIS_MB = 64
# Secrets of the vault: the engine's alone. The other processes parse strangers' files.
ENGINE_ONLY = ("SHIORI_VAULT_KEY", "SHIORI_VAULT_KEY_FILE", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def engine_environment(data_dir: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Master key, cold tier and metrics: as set, else in the data folder. A cold tier set to "" stays none."""
    found = {name: environ[name] for name in ENGINE_ONLY if name in environ}
    if not environ.get("SHIORI_VAULT_KEY"):
        found.setdefault("SHIORI_VAULT_KEY_FILE", str(data_dir / "vault.key"))  # the vault makes it when missing
    return found | {
        "SHIORI_COLD_URL": environ.get("SHIORI_COLD_URL", (data_dir / "cold").as_uri()),
        "SHIORI_METRICS_ADDRESS": environ.get("SHIORI_METRICS_ADDRESS", f"127.0.0.1:{ports.preferred(METRICS_PORT)}"),
    }


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name not in ENGINE_ONLY}


def redis_options(environ: Mapping[str, str]) -> dict[str, str]:
    """Kept over a restart and never evicted to make room; the vault refuses writes before the limit is reached.

    Durability "disk" needs every write on the disk before it is acknowledged: this Redis (6.2) has no WAITAOF.
    """
    on_disk = environ.get("SHIORI_VAULT_DURABILITY") == "disk"
    return {
        "appendonly": "yes",
        "appendfsync": "always" if on_disk else "everysec",
        "save": "",
        "maxmemory": f"{redis_max_mb(environ)}mb",
        "maxmemory-policy": "noeviction",
    }


def redis_max_mb(environ: Mapping[str, str]) -> int:
    """SHIORI_REDIS_MAX_MB, else half of the memory there is."""
    told = environ.get("SHIORI_REDIS_MAX_MB", "")
    if not told:
        return max(LEAST_REDIS_MB, memory_bytes() // 2 // 2**20)
    if not told.isdecimal() or int(told) < LEAST_REDIS_MB:
        raise ValueError(f"SHIORI_REDIS_MAX_MB={told}: a whole number of megabytes from {LEAST_REDIS_MB} on is needed")
    return int(told)


def memory_bytes() -> int:
    """Of this machine, or of the container around it."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return machine
