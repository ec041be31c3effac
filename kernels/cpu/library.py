"""The compiled library: which one suits this processor, and the types of its functions."""

import ctypes
import logging
import platform
from functools import cache
from pathlib import Path

from kernels.cpu import build

log = logging.getLogger(__name__)

POINTER, INT, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_NEEDS = {  # flags of /proc/cpuinfo, as -march of build.py means them
    "amx": {*_AVX512, "avx512_bf16", "amx_tile", "amx_bf16"},
    "avx512_bf16": {*_AVX512, "avx512_bf16"},
    "avx512": _AVX512,
    "avx2": {"avx2", "fma", "bmi1", "bmi2", "f16c"},
    "neon": set(),
}


class Panels(ctypes.Structure):
    """matmul.h: a matrix in panels of 32 columns."""

    _fields_ = [("data", POINTER), ("columns", INT), ("depth", INT), ("form", INT), ("scales", POINTER)]


class Expert(ctypes.Structure):
    """experts.cpp: gate and up [inner, width], down [width, inner]."""

    _fields_ = [("gate", Panels), ("up", Panels), ("down", Panels)]


class Piece(ctypes.Structure):
    """layers.cpp: the rows of one sequence in a batch, and where its state lives."""

    _fields_ = [("first", INT), ("count", INT), ("slot", INT), ("table", POINTER), ("position", INT)]


class KdaMixer(ctypes.Structure):
    """layers.cpp."""

    _fields_ = [
        ("norm", POINTER),
        ("width", INT),
        *[(name, Panels) for name in ("inward", "f_b", "g_b", "o_proj")],
        *[(name, POINTER) for name in ("conv", "A_log", "dt_bias", "o_norm")],
        *[(name, INT) for name in ("heads", "head_dim", "taps")],
        ("eps", FLOAT),
    ]


class MlaMixer(ctypes.Structure):
    """layers.cpp."""

    _fields_ = [
        ("norm", POINTER),
        ("width", INT),
        ("inward", Panels),
        ("o_proj", Panels),
        *[(name, POINTER) for name in ("latent_norm", "kv_b", "keys", "values")],
        *[(name, INT) for name in ("heads", "nope", "rope", "rank", "value_dim")],
        ("eps", FLOAT),
        ("latent_eps", FLOAT),
    ]


class Ffn(ctypes.Structure):
    """layers.cpp."""

    _fields_ = [
        ("norm", POINTER),
        ("width", INT),
        ("router", POINTER),
        ("bias", POINTER),
        ("experts", ctypes.POINTER(Expert)),
        *[(name, INT) for name in ("count", "top_k", "renormalize", "bias_in_weights")],
        ("scale", FLOAT),
        ("eps", FLOAT),
    ]


_SIGNATURES = {
    "set_threads": [INT],
    "pack": [POINTER, INT, INT, INT, POINTER],
    "pack_pairs": [POINTER, INT, INT, POINTER],
    "matmul": [POINTER, INT, INT, ctypes.POINTER(Panels), POINTER, INT, INT],
    "rms_norm": [POINTER, INT, INT, INT, POINTER, FLOAT, POINTER, INT],
    "route": [POINTER, INT, INT, INT, POINTER, POINTER, INT, INT, FLOAT, INT, INT, POINTER, POINTER],
    "experts": [POINTER, INT, INT, POINTER, POINTER, INT, ctypes.POINTER(Expert), INT, INT, POINTER, INT],
    "kda": [*[POINTER, INT] * 4, *[POINTER] * 4, FLOAT, *[INT] * 4, *[POINTER] * 3, INT],
    "kda_mixer": [ctypes.POINTER(KdaMixer), POINTER, INT, ctypes.POINTER(Piece), INT, POINTER, POINTER],
    "mla_mixer": [ctypes.POINTER(MlaMixer), POINTER, INT, ctypes.POINTER(Piece), INT, POINTER, INT],
    "ffn": [ctypes.POINTER(Ffn), POINTER, INT],
    "mla": [POINTER, INT, POINTER, INT, POINTER, INT, POINTER, *[INT] * 6, POINTER, INT],
    "mla_rounded": [POINTER, INT, POINTER, INT, POINTER, INT, *[POINTER] * 3, *[INT] * 6, POINTER, INT],
}


def open_library(path: Path) -> ctypes.CDLL:
    if path.name.startswith("amx-"):
        _tiles_granted()  # without that its first product is an illegal instruction
    library = ctypes.CDLL(str(path))
    for name, types in _SIGNATURES.items():
        function = getattr(library, f"shiori_{name}")
        function.argtypes, function.restype = types, None
    return library


def suitable() -> list[str]:
    """The variants that this processor runs, the best first."""
    flags = _flags()
    return [name for name in build.variants() if _NEEDS[name] <= flags and (name != "amx" or _tiles_granted())]


@cache
def _tiles_granted() -> bool:
    """Asks Linux for AMX's tile registers, which it gives a process only on demand: arch_prctl(ARCH_REQ_XCOMP_PERM)."""
    arch_prctl, require, tile_data = 158, 0x1023, 18
    return ctypes.CDLL(None, use_errno=True).syscall(arch_prctl, require, tile_data) == 0


@cache
def variant() -> str | None:
    """The best one that was compiled; None, and a line in the log, when there is none."""
    for name in suitable():
        if build.path_of(name).exists():
            return name
    log.warning("no compiled CPU kernels for this %s: PyTorch's operations are used, several times slower; "
                "`python -m kernels.cpu.build` compiles them where there is g++", platform.machine())  # fmt: skip
    return None


@cache
def library() -> ctypes.CDLL | None:
    found = variant()
    return open_library(build.path_of(found)) if found else None


def bf16_is_faster() -> bool:
    """Whether products of bf16 numbers take less time here than fp32's.

    Intel's processors take longer for AVX-512's dot products than for as much in fp32 (0.7 times the rate, measured
    with AMX left out); AMD's are believed to take half as long.
    """
    return variant() == "amx" or (variant() == "avx512_bf16" and "amd" in _line("vendor_id").lower())


def _flags() -> set[str]:
    return set(_line("flags").split())


def _line(name: str) -> str:
    """What /proc/cpuinfo says of the first processor."""
    if platform.machine() != "x86_64":
        return ""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == name), "")
