"""A supervisor over small stand-in processes: what it promises about starting, reviving and ending."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.local import ports

ROOT = Path(__file__).resolve().parents[2]

DRIVER = """
import sys
from pathlib import Path
from services.local.child import Spec
from services.local.supervisor import Supervisor
from services.local.system import Plan

folder, port, *commands = sys.argv[1:]
env = {"PATH": "/usr/bin:/bin"}
specs = [Spec(f"child{i}", ["sh", "-c", command], env, stop_seconds=1) for i, command in enumerate(commands)]
url = f"http://127.0.0.1:{port}"
plan = Plan(Path(folder), "127.0.0.1", int(port), url, specs[0], ["true"], env, specs[1:], list)
sys.exit(Supervisor(plan).run())
"""


def alive(pid: int) -> bool:
    """Runs, and is not a zombie that merely waits to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def eventually(promise: Callable[[], object], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not promise():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@dataclass
class Running:
    process: subprocess.Popen[str]
    folder: Path
    port: int

    def pid(self, name: str) -> int:
        pid: int = json.loads((self.folder / "run.json").read_text())["processes"][name]["pid"]
        return pid

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=20)
        return self.process.returncode, output


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Running] = []

    def begin(*commands: str, port: int | None = None, wait: bool = True) -> Running:
        port = port or ports.any_free()
        command = [sys.executable, "-c", DRIVER, str(tmp_path), str(port), *commands]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        running = Running(process, tmp_path, port)
        started.append(running)
        if wait:
            names = [f"child{i}" for i in range(len(commands))]
            assert eventually(lambda: _all_known(tmp_path, names)), process.communicate(timeout=5)
        return running

    yield begin
    for running in started:
        if running.process.poll() is None:
            running.end(signal.SIGKILL)


def _all_known(folder: Path, names: list[str]) -> bool:
    try:
        return set(names) <= json.loads((folder / "run.json").read_text())["processes"].keys()
    except (OSError, ValueError):
        return False
