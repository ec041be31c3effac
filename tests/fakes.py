"""In-memory twins of what lives in other processes."""

from types import SimpleNamespace
from typing import Any


class FakeModel:
    """A client of an engine that has nothing but a description."""

    def __init__(self, tenant: str = "default") -> None:
        self.tenant = tenant

    def describe(self) -> Any:
        numbers = ("parameters", "context_tokens", "grid_tokens", "page_tokens", "page_bytes", "snapshot_bytes")
        free = ("slots_total", "slots_free", "pages_total", "pages_free")
        return SimpleNamespace(
            model="tiny", fingerprint="00", device="cpu", special_tokens=["doc"], **dict.fromkeys(numbers + free, 1)
        )
