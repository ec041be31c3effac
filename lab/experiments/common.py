"""What every experiment's command has in common: arguments, settings, results by case, checkpoints, the time."""

import argparse
import json
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import torch

RESULTS = Path("lab/results")
MINIATURE = "miniature"  # the table of config.toml that makes every setting small


def arguments(doc: str | None) -> argparse.Namespace:
    """--config, --out, --device, --seconds, --only, --miniature; the folder of the command names the rest."""
    home = Path(sys.modules["__main__"].__file__ or "").parent
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=home / "config.toml")
    parser.add_argument("--out", type=Path, default=RESULTS / home.name)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop then; the same command goes on")
    parser.add_argument("--only", nargs="+", default=[], help="cases whose name holds one of these words")
    parser.add_argument("--miniature", action="store_true", help="the same, tiny, on a CPU")
    found = parser.parse_args()
    found.settings = settings(found.config, found.miniature)
    found.device = torch.device(found.device)
    return found


def settings(path: Path, miniature: bool = False) -> dict[str, Any]:
    found = tomllib.loads(path.read_text())
    small = found.pop(MINIATURE, {})
    return merged(found, small) if miniature else found


def merged(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """b's values over a's, tables within tables."""
    both = {key: merged(a[key], b[key]) for key in a.keys() & b.keys() if isinstance(a[key], dict)}
    return a | b | both


class Results:
    """One JSON file for every case: {case, settings, command, device, ...figures}."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def done(self, case: str, settings: dict[str, Any]) -> bool:
        file = self.folder / f"{case}.json"
        return file.exists() and json.loads(file.read_text())["settings"] == settings

    def put(self, case: str, settings: dict[str, Any], **figures: Any) -> None:
        machine = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        made = {"case": case, "settings": settings, "command": sys.argv[1:], "machine": machine} | figures
        write(self.folder / f"{case}.json", lambda part: part.write_text(json.dumps(made, indent=1) + "\n"))

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(file.read_text()) for file in sorted(self.folder.glob("*.json"))]


class Checkpoint:
    def __init__(self, path: Path):
        self.path = path

    def save(self, state: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write(self.path, lambda part: torch.save(state, part))

    def load(self) -> dict[str, Any] | None:
        return torch.load(self.path, map_location="cpu", weights_only=True) if self.path.exists() else None


def write(path: Path, fill: Any) -> None:
    part = path.with_name(f".{path.name}.part")
    fill(part)
    part.replace(path)


class Clock:
    """Seconds since it was made."""

    def __init__(self, seconds: float):
        self.seconds, self.began = seconds, time.monotonic()

    def spent(self) -> float:
        return time.monotonic() - self.began

    def over(self) -> bool:
        return self.spent() >= self.seconds


def progress(line: str) -> None:
    print(line, flush=True)
