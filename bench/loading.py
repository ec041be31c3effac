"""The 48B's released format from files to a device: seconds, GB/s, and what the host's memory had to hold.

    python -m bench.loading --folder DIR [--device cuda] [--layers 27] [--repeat 2] [--out FILE]

Makes the checkpoint in DIR (20 files, 98 GB by their length, next to nothing on the disk: zeros are holes), puts random
numbers into a few tensors, and loads it as the engine does. A file's holes come out of the file cache, so this is the
speed of everything but the disk; the first load fills the cache, the second finds it full where memory is large
enough. The marked tensors are read by safetensors' own reader too and compared.
"""

import argparse
import gc
import json
import threading
import time
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from engine import load_model
from engine.checkpoint import Checkpoint
from engine.testing import save_sparse_checkpoint
from services.inference import loading

RELEASED = Path(__file__).parents[1] / "tests" / "engine" / "data" / "48b"  # its config.json
GB = 1e9


@dataclass(frozen=True)
class Result:
    load: int  # 1: the files not in the cache yet, as far as this script can say
    gigabytes: float
    seconds: float
    gb_per_s: float
    host_before_mb: int  # memory of the process that no file backs
    host_peak_mb: int
    host_more_mb: int  # what loading took of it, for the bar of 2 GiB
    high_water_mb: int  # VmHWM, with what is mapped of torch's own libraries
    device_mb: int | None  # what torch holds on the GPU at most; the model is ``gigabytes``
    equal: bool  # the marked tensors, to those of safetensors' own reader


class Peak:
    """The most memory of this process that no file backs (RssAnon and RssShmem), looked at a hundred times a second."""

    def __enter__(self) -> "Peak":
        self.before = self.peak = unbacked()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.01):
            self.peak = max(self.peak, unbacked())


def status(name: str) -> int:
    """Bytes, by /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def unbacked() -> int:
    return status("RssAnon") + status("RssShmem")


def fields(layers: int) -> dict[str, Any]:
    """config.json of the 48B, or of its first layers."""
    found = json.loads((RELEASED / "config.json").read_text())
    linear = found["linear_attn_config"]
    for kind in ("kda_layers", "full_attn_layers"):
        linear[kind] = [i for i in linear[kind] if i <= layers]
    return found | {"num_hidden_layers": layers}


def mark(folder: Path, layers: int) -> dict[str, Path]:
    """Random numbers into some tensors -> {name: file}."""
    places = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    names = ["model.norm.weight", "model.layers.0.self_attn.A_log", "model.layers.3.self_attn.kv_b_proj.weight"]
    experts = f"model.layers.{layers - 1}.block_sparse_moe.experts"
    names += [f"{experts}.{e}.{w}.weight" for e in (0, 100, 255) for w in ("w1", "w2", "w3")]
    for name in names:
        fill(folder / places[name], name)
    return {name: folder / places[name] for name in names}


def fill(file: Path, name: str) -> None:
    with file.open("r+b") as out:
        length = int.from_bytes(out.read(8), "little")
        entry = json.loads(out.read(length))[name]
        first, last = entry["data_offsets"]
        kind = torch.float32 if entry["dtype"] == "F32" else torch.bfloat16
        out.seek(8 + length + first)
        out.write(torch.randn((last - first) // kind.itemsize).to(kind).view(torch.uint8).numpy().tobytes())


def equal(folder: Path, marked: dict[str, Path], device: torch.device) -> bool:
    with Checkpoint(folder, device) as checkpoint:
        places: dict[str, Tensor] = {}
        for name, (dtype, shape) in checkpoint.inventory().items():
            if name in marked:
                places[name] = torch.full(shape, torch.nan, dtype=dtype, device=device)
        checkpoint.read(places)
    found = []
    for name, file in marked.items():
        with safe_open(file, framework="pt") as other:
            found.append(torch.equal(other.get_tensor(name), places[name].cpu()))
    return all(found)


def measured(folder: Path, marked: dict[str, Path], device: torch.device, load: int) -> Result:
    cuda = device.type == "cuda"
    if cuda:
        torch.zeros(1, device=device)  # the context is not the loading's
        torch.cuda.reset_peak_memory_stats(device)
    with Peak() as host, loading.shown() as progress:
        began = time.perf_counter()
        model = load_model(folder, device, torch.bfloat16, progress=progress)
        if cuda:
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - began
    del model
    gc.collect()
    with Checkpoint(folder) as checkpoint:
        size = sum(prod(shape) * dtype.itemsize for dtype, shape in checkpoint.inventory().values())
    return Result(
        load=load,
        gigabytes=round(size / GB, 2),
        seconds=round(seconds, 2),
        gb_per_s=round(size / GB / seconds, 2),
        host_before_mb=host.before >> 20,
        host_peak_mb=host.peak >> 20,
        host_more_mb=(host.peak - host.before) >> 20,
        high_water_mb=status("VmHWM") >> 20,
        device_mb=torch.cuda.max_memory_reserved(device) >> 20 if cuda else None,
        equal=equal(folder, marked, device),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="made if missing; left when done")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--layers", type=int, default=27, help="the first ones only, where memory is short; at least 4")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    save_sparse_checkpoint(arguments.folder, fields(arguments.layers))
    marked = mark(arguments.folder, arguments.layers)
    results = []
    for load in range(1, arguments.repeat + 1):
        results.append(asdict(measured(arguments.folder, marked, device, load)))
        print(json.dumps(results[-1]), flush=True)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    if arguments.out:
        arguments.out.write_text(
            json.dumps({"device": where, "torch": torch.__version__, "loads": results}, indent=1) + "\n"
        )
    if not all(result["equal"] for result in results):
        raise SystemExit("what was loaded is not what the files say")


if __name__ == "__main__":
    main()
