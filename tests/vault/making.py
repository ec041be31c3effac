"""A vault on a real Redis with a cold folder, and readings of random numbers to put into it."""

from pathlib import Path
from typing import Any

import numpy as np
import redis

from services.vault.drafts import Draft, Piece, State
from services.vault.heads import Head
from services.vault.keeper import Keeper
from services.vault.manifest import Layout, Manifest
from services.vault.metrics import Metrics
from services.vault.setup import VaultSettings, open_vault
from services.vault.vault import Vault

PAGE, LAYERS, WIDTH = 256, 2, 8
LAYOUT = Layout((LAYERS, WIDTH, "F32"), (("conv", "F32", (3, 96)), ("kda", "F32", (3, 2, 16, 16))))
PAYLOAD = PAGE * LAYERS * WIDTH * 4
EMPTY = Manifest("finger", "tok", page_tokens=PAGE)


def make(url: str, folder: Path, cold: bool = True, **changes: Any) -> Keeper:
    settings: dict[str, Any] = {"redis_url": url, "key_file": folder / "vault.key", "sweep_s": 0, "ring_mb": 1}
    settings |= {"cold_url": f"file://{folder}/cold" if cold else "", "connections": 2}
    return open_vault(VaultSettings(**(settings | changes)), Metrics(), PAYLOAD)


def state(position: int, first: int, seed: int, digest: str = "") -> State:
    """Latents are a function of position only, as a reading's are of what was read."""
    noise, numbers = np.random.default_rng(seed), np.arange(first, position, dtype="<u4")
    rows = np.repeat(numbers[None, :, None], LAYERS, 0).repeat(WIDTH, 2) * 7 + 1
    tensors = tuple(noise.integers(0, 256, int(np.prod(shape)) * 4, dtype=np.uint8) for _, _, shape in LAYOUT.tensors)
    digest = digest or f"{seed:02x}{position:062x}"
    return State(position, digest, first, rows.view(np.uint8), tensors, LAYOUT, ((position, digest),) * 5)


def draft(base: Manifest, count: int, seed: int = 0) -> Draft:
    """`count` more tokens on top of `base`."""
    first = len(base.whole_pages()) * PAGE
    piece = Piece(f"part {seed}", list(range(count)), count)
    return Draft(base, base.segments, (piece,), state(base.position + count, first, seed), base.seconds + count / 100)


def opened(vault: Vault, session: str = "s", tenant: str = "t") -> Head:
    vault.heads.open(tenant, session, "finger")
    return vault.heads.begin(tenant, session)


def taken(vault: Vault, manifest: Manifest, tenant: str = "t") -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Latents and tensors at the manifest's last rung."""
    rung = manifest.rungs[-1]
    rows = np.zeros((LAYERS, rung.position, WIDTH * 4), np.uint8)

    def put(first: int, some: np.ndarray) -> None:
        rows[:, first : first + some.shape[1]] = some

    tensors = vault.load(tenant, manifest, rung, put)
    return rows, tensors


def whole(vault: Vault, manifest: Manifest, seed: int, tenant: str = "t") -> bool:
    """Is what comes back what was written?"""
    rows, tensors = taken(vault, manifest, tenant)
    wanted = state(manifest.rungs[-1].position, 0, seed)
    return bool(np.array_equal(rows, wanted.latents)) and all(map(np.array_equal, tensors, wanted.tensors))


def another(keeper: Keeper, url: str, folder: Path, **changes: Any) -> Vault:
    """As another process finds it: nothing in memory."""
    return make(url, folder, cold=keeper.tiers is not None, **changes).vault


def blocks(client: redis.Redis, pattern: str = "*:blk:*") -> list[bytes]:
    return sorted(client.scan_iter(pattern))
