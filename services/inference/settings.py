"""What the environment decides for the engine's process. Read once, handed on."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from services.vault.setup import VaultSettings


@dataclass(frozen=True)
class InferenceSettings:
    address: str = "127.0.0.1:50051"  # port 0: any free one
    model_dir: Path = Path("lab/model")
    redis_url: str = field(default="redis://127.0.0.1:6399/0", repr=False)  # may hold a password
    tokens: int = 262_144  # size of the page pool, shared by all live sequences; 0: as many as fit
    slots: int = 16  # live sequences; a running answer takes three; 0: as many as fit
    threads: int = 0  # of torch; 0: as many as cores. Set OMP_WAIT_POLICY=PASSIVE, or they spin beside other load
    device: str = "cpu"
    dtype: str = "auto"  # what reads fastest on this device; or float32, bfloat16, int8 (a CPU's weights)
    reflection: bool = False  # development only
    grace_s: float = 10.0  # for running calls after SIGTERM
    key: str = field(default="", repr=False)  # the vault's master key, 64 hex digits
    key_file: Path = Path("var/vault.key")  # or a file that holds it; made if missing
    cold_url: str = ""  # the vault's cold tier: file:///…, s3://bucket/prefix; "": none
    ring_mb: int = 128  # of host memory for blocks on their way
    rung_s: float = 5.0  # computing that a kill in the middle of a segment may cost
    durability: str = "memory"  # or disk
    connections: int = 4  # to Redis, for blocks
    hot_days: float = 7.0  # idle for longer: in the cold tier only
    history_hours: float = 24.0  # what a rewind left is kept for so long
    high_water: float = 0.8  # of Redis' memory
    max_mb: int = 0  # of Redis; 0: its own maxmemory
    quota_mb: str = ""  # a number, or "tenant:number,…"
    sweep_s: float = 300.0  # between the keeper's rounds in the vault; 0: never
    metrics_address: str = ""  # host:port of Prometheus' page; "": none

    @staticmethod
    def from_env() -> InferenceSettings:
        default, data = InferenceSettings(), Path(_env("DATA_DIR", "var"))
        return InferenceSettings(
            address=_env("ENGINE_ADDRESS", default.address),
            model_dir=Path(_env("MODEL_DIR", str(default.model_dir))),
            redis_url=_env("REDIS_URL", default.redis_url),
            tokens=_sized("ENGINE_TOKENS", default.tokens),
            slots=_sized("ENGINE_SLOTS", default.slots),
            threads=int(_env("ENGINE_THREADS", "0")),
            device=_env("ENGINE_DEVICE", default.device),
            dtype=_env("ENGINE_DTYPE", default.dtype),
            reflection=_env("REFLECTION", "0") == "1",
            grace_s=float(_env("ENGINE_GRACE_SECONDS", str(default.grace_s))),
            key=_env("VAULT_KEY", ""),
            key_file=Path(_env("VAULT_KEY_FILE", str(data / "vault.key"))),
            cold_url=os.environ.get("SHIORI_COLD_URL", f"file://{(data / 'cold').absolute()}"),
            ring_mb=int(_env("RING_MB", str(default.ring_mb))),
            rung_s=float(_env("RUNG_SECONDS", str(default.rung_s))),
            durability=_env("VAULT_DURABILITY", default.durability),
            connections=int(_env("VAULT_CONNECTIONS", str(default.connections))),
            hot_days=float(_env("HOT_DAYS", str(default.hot_days))),
            history_hours=float(_env("HISTORY_HOURS", str(default.history_hours))),
            high_water=float(_env("HIGH_WATER", str(default.high_water))),
            max_mb=int(_env("VAULT_MAX_MB", str(default.max_mb))),
            quota_mb=_env("QUOTA_MB", default.quota_mb),
            sweep_s=float(_env("SWEEP_SECONDS", str(default.sweep_s))),
            metrics_address=os.environ.get("SHIORI_METRICS_ADDRESS", "127.0.0.1:9464"),
        )

    def vault(self) -> VaultSettings:
        return VaultSettings(
            redis_url=self.redis_url,
            key=self.key,
            key_file=self.key_file,
            cold_url=self.cold_url,
            ring_mb=self.ring_mb,
            connections=self.connections,
            durability=self.durability,
            max_mb=self.max_mb,
            high_water=self.high_water,
            hot_days=self.hot_days,
            history_hours=self.history_hours,
            quota_mb=self.quota_mb,
            sweep_s=self.sweep_s,
        )


def _sized(name: str, on_a_cpu: int) -> int:
    """A number, or "auto" (0): the rule on a GPU, which the engine has to itself."""
    cpu = _env("ENGINE_DEVICE", "cpu") == "cpu"
    value = _env(name, str(on_a_cpu) if cpu else "auto")
    return 0 if value == "auto" else int(value)


def _env(name: str, default: str) -> str:
    """An empty variable is an unset one: compose files pass those on."""
    return os.environ.get(f"SHIORI_{name}") or default
