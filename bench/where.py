"""What a figure is worth nothing without: the machine, how busy it was, and the commit."""

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

CODE = ("engine", "kernels", "services", "bench", ":!bench/results")


def where() -> dict[str, Any]:
    """Machine, load by anything else, commit (with a + when the code differs from it), date, OpenMP's settings."""
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *CODE)
    return {
        "machine": f"{cpu_name()}, {os.cpu_count()} CPUs, {platform.system()} {platform.machine()}",
        "load": [round(x, 2) for x in os.getloadavg()],
        "commit": git("rev-parse", "--short", "HEAD") + ("+" if changed else ""),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "environment": {
            name: value for name, value in os.environ.items() if name.startswith(("OMP_", "MKL_", "GOMP_"))
        },
    }


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def git(*words: str) -> str:
    """What git says; "" where there is none, as on a lent machine."""
    try:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""
