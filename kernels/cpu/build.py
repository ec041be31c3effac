"""Compiles the kernels: `python -m kernels.cpu.build`. Does nothing when that was done; under a minute otherwise.

One library for each instruction set that a machine of this kind may have, so that what was compiled here runs on its
older neighbours too. The name of a library holds a hash of the sources: one compiled from others is never loaded.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE / "built"
# No fused, reordered or approximate arithmetic but what the source says: vec.h.
FLAGS = ["-std=c++20", "-O3", "-fPIC", "-shared", "-pthread", "-ffp-contract=off", "-fno-math-errno"]
_BF16 = "-mavx512bf16"
VARIANTS = {  # the best first; what the compiler is told of each
    "x86_64": {
        "amx": ["-march=x86-64-v4", _BF16, "-mamx-tile", "-mamx-bf16"],
        "avx512_bf16": ["-march=x86-64-v4", _BF16],
        "avx512": ["-march=x86-64-v4"],
        "avx2": ["-march=x86-64-v3"],
    },
    "aarch64": {"neon": ["-march=armv8-a"]},
}


def variants() -> dict[str, list[str]]:
    return VARIANTS.get(platform.machine(), {})


def path_of(variant: str) -> Path:
    return FOLDER / f"{variant}-{_hash()}.so"


@cache
def _hash() -> str:
    found = hashlib.sha256(" ".join(FLAGS).encode())
    for source in sorted([*HERE.glob("*.cpp"), *HERE.glob("*.h")]):
        found.update(source.read_bytes())
    return found.hexdigest()[:16]


def compiler() -> str:
    names = [name for name in (os.environ.get("CXX"), "g++", "clang++") if name]
    for found in filter(None, map(shutil.which, names)):
        return found
    raise RuntimeError(f"no C++ compiler on PATH: looked for {', '.join(names)}")


def build() -> list[Path]:
    """The libraries, compiled now where they were not there. Raises RuntimeError with what the compiler said."""
    FOLDER.mkdir(exist_ok=True)
    missing = [name for name in variants() if not path_of(name).exists()]
    with ThreadPoolExecutor() as pool:
        list(pool.map(_compile, missing))
    return [path_of(name) for name in variants()]


def _compile(variant: str) -> None:
    """To a name of its own first: whoever looks meanwhile sees the whole library or none."""
    made = FOLDER / f".{variant}-{os.getpid()}.so"
    command = [
        compiler(),
        *FLAGS,
        *variants()[variant],
        *sorted(map(str, HERE.glob("*.cpp"))),
        "-o",
        str(made),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-4000:]}")
    for old in FOLDER.glob(f"{variant}-*.so"):
        old.unlink()
    made.rename(path_of(variant))


def main() -> int:
    try:
        build()
    except RuntimeError as error:
        print(f"the CPU kernels could not be compiled; the slower PyTorch path will be used: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
