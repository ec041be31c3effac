"""The cold tier's folder as a test sees it: files by `tenant/kind/name`, read, harmed, saved and put back."""

from __future__ import annotations

from pathlib import Path


class ColdFolder:
    """The same face as Store's raw values. Kinds are those of the keys there: man, blk, head; `key` is a tenant's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def url(self) -> str:
        return f"file://{self.folder}"

    def keys(self, *kinds: str) -> list[bytes]:
        found = sorted(path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        names = [path for path in found if not path.parts[0].startswith(".")]
        return [str(path).encode() for path in names if not kinds or path.parts[1] in kinds]

    def get(self, key: bytes) -> bytes:
        return (self.folder / key.decode()).read_bytes()

    def set(self, key: bytes, value: bytes) -> None:
        path = self.folder / key.decode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value)

    def delete(self, *keys: bytes) -> None:
        for key in keys:
            (self.folder / key.decode()).unlink(missing_ok=True)

    def dump(self) -> dict[bytes, bytes]:
        return {key: self.get(key) for key in self.keys()}

    def load(self, dumped: dict[bytes, bytes]) -> None:
        for key in set(self.keys()) - dumped.keys():
            self.delete(key)
        for key, value in dumped.items():
            path = self.folder / key.decode()
            if not path.is_file() or path.stat().st_size != len(value) or path.read_bytes() != value:
                self.set(key, value)
