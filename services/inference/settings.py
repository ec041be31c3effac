"""What the environment decides for the engine's process. Read once, handed on."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class InferenceSettings:
    address: str = "127.0.0.1:50051"  # port 0: any free one
    model_dir: Path = Path("lab/model")
    redis_url: str = field(default="redis://127.0.0.1:6399/0", repr=False)  # may hold a password
    tokens: int = 262_144  # size of the page pool, shared by all live sequences
    slots: int = 16  # live sequences; a running answer takes three
    threads: int = 0  # of torch; 0: as many as cores. Set OMP_WAIT_POLICY=PASSIVE, or they spin beside other load
    device: str = "cpu"
    dtype: str = "float32"
    reflection: bool = False  # development only
    grace_s: float = 10.0  # for running calls after SIGTERM
    sweep_s: float = 300.0  # between reclaims in the vault; 0: never

    @staticmethod
    def from_env() -> InferenceSettings:
        default = InferenceSettings()
        return InferenceSettings(
            address=_env("ENGINE_ADDRESS", default.address),
            model_dir=Path(_env("MODEL_DIR", str(default.model_dir))),
            redis_url=_env("REDIS_URL", default.redis_url),
            tokens=int(_env("ENGINE_TOKENS", str(default.tokens))),
            slots=int(_env("ENGINE_SLOTS", str(default.slots))),
            threads=int(_env("ENGINE_THREADS", "0")),
            device=_env("ENGINE_DEVICE", default.device),
            dtype=_env("ENGINE_DTYPE", default.dtype),
            reflection=_env("REFLECTION", "0") == "1",
            grace_s=float(_env("ENGINE_GRACE_SECONDS", str(default.grace_s))),
            sweep_s=float(_env("SWEEP_SECONDS", str(default.sweep_s))),
        )


def _env(name: str, default: str) -> str:
    """An empty variable is an unset one: compose files pass those on."""
    return os.environ.get(f"SHIORI_{name}") or default
