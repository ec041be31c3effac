"""What every experiment shares: its arguments, its settings, its results, its checkpoints, its clock, its claims.

An experiment is a folder here: ``config.toml`` (what a reader may want to change), ``__main__.py`` and ``claims.py``.

    python -m lab.experiments.NAME [--config FILE] [--out DIR] [--device cpu|cuda] [--seconds N] [--only WORD…]
                                   [--checkpoints DIR] [--miniature]

It runs its cases in order of importance, leaves out those whose result is there already for the same settings, stops
before its seconds are over with a checkpoint, and goes on from that when it is called again. ``claims.py`` has
``claims(results: list[dict]) -> list[Claim]``: lab.experiments.page puts them into the table of lab/README.md.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parents[1] / "results"
CHECKPOINTS = Path("var/lab")


def arguments(doc: str, name: str) -> argparse.Namespace:
    """``name``: the experiment's folder. config, out and checkpoints are paths, device is a torch.device."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).parent / name / "config.toml")
    parser.add_argument("--out", type=Path, default=RESULTS / name)
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS / name)
    parser.add_argument(
        "--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu")
    )
    parser.add_argument("--seconds", type=float, default=1500.0, help="stop with a checkpoint before so many are over")
    parser.add_argument("--only", nargs="+", default=[], help="cases whose name holds one of these words")
    parser.add_argument("--miniature", action="store_true", help="the config's [miniature] over its other settings")
    return parser.parse_args()


def settings(path: Path, miniature: bool = False) -> dict[str, Any]:
    """The config, its table [miniature] laid over the rest where asked for."""
    found = tomllib.loads(path.read_text())
    small = found.pop("miniature", {})
    return laid(found, small) if miniature else found


def laid(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``over`` upon ``under``, table by table. A name that is not there is a mistake of spelling: ValueError."""
    unknown = over.keys() - under.keys()
    if unknown:
        raise ValueError(f"[miniature] has {', '.join(sorted(unknown))}, which the config has not")
    merged = {k: laid(under[k], v) if isinstance(v, dict) else v for k, v in over.items()}
    return under | merged


def wanted(case: str, words: list[str]) -> bool:
    return not words or any(word in case for word in words)


class Results:
    """One JSON a case: {case, settings, figures…, command, machine, commit, seconds, date}."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._began = folder, time.monotonic()

    def done(self, case: str, settings: dict[str, Any]) -> bool:
        file = self.folder / f"{case}.json"
        return file.exists() and json.loads(file.read_text())["settings"] == json.loads(json.dumps(settings))

    def put(self, case: str, settings: dict[str, Any], **figures: Any) -> None:
        """Writes it whole or not at all. ``seconds`` are those since the last, where the figures do not say."""
        self.folder.mkdir(parents=True, exist_ok=True)
        now = time.monotonic()
        about = {"seconds": round(now - self._began, 1)} | figures | place()
        self._began = now
        write(self.folder / f"{case}.json", json.dumps({"case": case, "settings": settings} | about, indent=1) + "\n")

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(file.read_text()) for file in sorted(self.folder.glob("*.json"))]


def write(file: Path, text: str) -> None:
    part = file.with_suffix(".part")
    part.write_text(text)
    part.rename(file)


def place() -> dict[str, str]:
    """Command, machine, commit and date of a result. ``SHIORI_COMMIT`` says the commit where there is no git."""
    git = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    gpu = torch.cuda.is_available()
    machine = torch.cuda.get_device_name() if gpu else f"{os.cpu_count()} CPU cores"
    module = getattr(sys.modules["__main__"].__spec__, "name", None)
    command = [f"-m {module.removesuffix('.__main__')}" if module else sys.argv[0], *sys.argv[1:]]
    return {
        "command": " ".join(["python", *command]),
        "machine": f"{machine}, torch {torch.__version__}",
        "commit": os.environ.get("SHIORI_COMMIT") or git.stdout.strip(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


class Checkpoint:
    """What a case that is not finished goes on from: anything that torch saves; it appears whole."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def save(self, **state: Any) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_suffix(".part")
        torch.save(state, part)
        part.rename(self.file)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        return torch.load(self.file, map_location=device, weights_only=True) if self.file.exists() else None

    def drop(self) -> None:
        self.file.unlink(missing_ok=True)


class Clock:
    """Seconds of this call, and a line now and then of how far a case is."""

    def __init__(self, seconds: float, every: float = 5.0) -> None:
        self._began = self._said = time.monotonic()
        self.seconds, self.every = seconds, every

    def left(self) -> float:
        return self.seconds - (time.monotonic() - self._began)

    def over(self) -> bool:
        return self.left() <= 0

    def say(self, case: str, done: int, of: int, rate: float, **figures: float) -> None:
        """``rate``: of ``done`` a second."""
        now = time.monotonic()
        if now - self._said >= self.every or done == of:
            self._said = now
            shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            print(
                f"{case}: {done} of {of}, {rate:.3g}/s, {(of - done) / max(rate, 1e-9):.0f} s left; {shown}", flush=True
            )


@dataclass(frozen=True)
class Claim:
    """A row of the table at the top of lab/README.md. ``agrees`` None: not run yet, or undecided."""

    claim: str
    paper: str
    ours: str  # with its interval
    agrees: bool | None
    command: str
