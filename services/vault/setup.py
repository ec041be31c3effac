"""The vault put together from its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
import structlog

from services import errors
from services.vault.cold import Cold
from services.vault.connections import Connections
from services.vault.drafts import LOG_TOKENS
from services.vault.keeper import Keeper, Limits
from services.vault.keys import Keys, master_keys
from services.vault.metrics import Metrics
from services.vault.ring import Ring
from services.vault.store import Store
from services.vault.tiers import TenantKeys
from services.vault.vault import Vault

log = structlog.get_logger(__name__)

_MB = 1024 * 1024
_FSYNC_MS = 5000


@dataclass(frozen=True)
class VaultSettings:
    redis_url: str = field(default="redis://127.0.0.1:6399/0", repr=False)  # may hold a password
    key: str = field(default="", repr=False)  # 64 hex digits; several, the newest first, while rotating
    key_file: Path | None = None
    cold_url: str = ""  # file:///…, s3://…; "": no cold tier
    ring_mb: int = 128
    connections: int = 4
    durability: str = "memory"  # or disk: what is told to be saved survives a power cut
    max_mb: int = 0  # of Redis; 0: its own maxmemory
    high_water: float = 0.8
    hot_days: float = 7.0
    settled_s: float = 120.0
    history_hours: float = 24.0
    quota_mb: str = ""  # a number, or "tenant:number,…"
    sweep_s: float = 300.0  # between the keeper's rounds; 0: never


def open_vault(
    settings: VaultSettings, metrics: Metrics, payload_bytes: int, allocate: Callable[[int], Any] = bytearray
) -> Keeper:
    """`payload_bytes`: of a whole page. The keeper is not started; its `vault` is the vault."""
    client = connect(settings.redis_url)
    cold = Cold(settings.cold_url) if settings.cold_url else None
    slot_bytes = max(payload_bytes, 4 * LOG_TOKENS)
    slots = max(4 * settings.connections, settings.ring_mb * _MB // slot_bytes)
    store = Store(
        client,
        Connections(settings.redis_url, settings.connections + 1),
        Ring(slot_bytes, slots, allocate),
        cold,
        metrics,
        threads=settings.connections,
    )
    keys = Keys(master_keys(settings.key, settings.key_file), TenantKeys(client, cold))
    vault = Vault(client, store, keys, metrics)
    vault.wait_durable = durability(client, settings.durability)
    return Keeper(vault, client, limits_of(settings), settings.sweep_s)


def connect(url: str) -> redis.Redis:
    """Bytes in, bytes out. Short patience: a vault that is away is UNAVAILABLE, not a stream that hangs."""
    return redis.Redis.from_url(
        url, socket_connect_timeout=5, socket_timeout=30, health_check_interval=30, decode_responses=False
    )


def limits_of(settings: VaultSettings) -> Limits:
    return Limits(
        max_bytes=settings.max_mb * _MB,
        high_water=settings.high_water,
        hot_ms=int(settings.hot_days * 24 * 3_600_000),
        settled_ms=int(settings.settled_s * 1000),
        quotas=quotas(settings.quota_mb),
    )


def quotas(text: str) -> dict[str, int]:
    """ "500" is everybody's; "alice:500,bob:2000" is theirs. Bytes by tenant; "" is for all who are not named."""
    found = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        tenant, _, number = entry.rpartition(":")
        if not number.isdigit():
            raise errors.InvalidInput(f"SHIORI_QUOTA_MB: {entry!r} is not a number of megabytes, or tenant:number")
        found[tenant] = int(number) * _MB
    return found


def durability(client: Any, level: str) -> Callable[[], None]:
    """What to wait for before somebody is told that a reading is saved. Refuses a level that this Redis cannot give."""
    if level == "memory":
        return lambda: None
    if level != "disk":
        raise errors.InvalidInput(f"SHIORI_VAULT_DURABILITY is {level!r}; it can be memory or disk")
    options = {**client.config_get("appendonly"), **client.config_get("appendfsync")}
    plain = {_str(name): _str(value) for name, value in options.items()}
    if plain.get("appendonly") != "yes":
        raise errors.Unavailable("SHIORI_VAULT_DURABILITY=disk needs a Redis with appendonly yes")
    if plain.get("appendfsync") == "always":
        return lambda: None  # its answer is the receipt
    if not client.command_info("WAITAOF").get("WAITAOF") and not client.command_info("WAITAOF").get("waitaof"):
        raise errors.Unavailable("SHIORI_VAULT_DURABILITY=disk needs Redis 7.2 or newer, or appendfsync always")

    def wait() -> None:
        local = client.execute_command("WAITAOF", 1, 0, _FSYNC_MS)[0]
        if not local:
            raise errors.Unavailable("Redis did not write to its disk in time; try again", retry_after=1)

    return wait


def _str(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
