"""One line of a benchmark: ours and its rivals on one input, timed in turn and compared with float64 in one run."""

import json
import statistics
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

COPY = 4.27e12  # bytes/s that a device copy moves on an H200, read and written (docs of the design, kernels.md §1)
Run = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """``impls``: name -> a function that runs once and returns its outputs, those that ``expected`` returns."""

    op: str
    case: str
    bytes: int  # that must move at least
    flops: int
    impls: dict[str, Run]
    expected: Callable[[], tuple[Tensor, ...]] | None = None  # by the definition, in float64
    graph: bool = False  # time the replay of a CUDA graph: what the host takes to launch is left out
    launches: int = 1  # operations in one run (a chain of 20 layers): ms is of one


@dataclass(frozen=True)
class Record:
    op: str
    case: str
    impl: str
    ms: float
    bytes: int
    flops: int
    floor_ms: float
    rel_err: list[float] | None


def measure(case: Case) -> Iterator[Record]:
    """A rival that cannot run is reported with its error and left out."""
    expected = case.expected() if case.expected else None
    for impl, run in case.impls.items():
        try:
            wrong = errors(run(), expected) if expected else None
            ms = (graph_ms if case.graph else eager_ms)(run) / case.launches
        except Exception as error:
            print(f"{case.op} {case.case} {impl}: {type(error).__name__}: {str(error)[:300]}", flush=True)
            continue
        floor = 1e3 * case.bytes / COPY
        record = Record(case.op, case.case, impl, ms, case.bytes, case.flops, floor, wrong)
        print(json.dumps(asdict(record)), flush=True)
        yield record


def errors(found: Any, expected: tuple[Tensor, ...]) -> list[float]:
    """Relative Frobenius errors, output by output."""
    pairs = zip(found if isinstance(found, tuple) else (found,), expected, strict=True)
    return [float(f"{float((a.double() - b.double()).norm() / b.double().norm()):.2e}") for a, b in pairs]


def eager_ms(run: Run, seconds: float = 0.3) -> float:
    """Median; the L2 cache is overwritten before each run."""
    flush = torch.empty(256 * 2**20, dtype=torch.int8, device="cuda")
    took, total = [], 0.0
    for _ in range(3):
        run()
    while (total < 1e3 * seconds and len(took) < 200) or len(took) < 5:
        flush.zero_()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        stop.synchronize()
        took.append(start.elapsed_time(stop))
        total += took[-1]
    return statistics.median(took)


def graph_ms(run: Run) -> float:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            run()
    torch.cuda.synchronize()
    return eager_ms(graph.replay)


def place() -> dict[str, str]:
    """Where a result was taken."""
    import triton

    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True
    ).stdout.strip()
    return {
        "gpu": torch.cuda.get_device_name(),
        "driver": driver,
        "torch": torch.__version__,
        "triton": triton.__version__,
    }
