"""Which tile the reading kernel of kernels/gpu/mla_decode.py should have: its constants are set here in turn.

python -m bench.h200.mla_decode_tune --out FILE
"""

import argparse
import json
from pathlib import Path

import torch

from bench.h200.measuring import errors, graph_ms, place
from bench.h200.mla_decode import Input, K
from kernels.gpu import mla_decode as op
from kernels.gpu import mla_decode_hopper

CONFIGURATIONS = [  # on Hopper's own kernel or not; keys, stages, warps, tiles ahead of the other; splits
    *[(True, 64, 2, 4, ahead, 132) for ahead in (0, 2, 3, 4)],
    (True, 64, 2, 4, 2, 128),
    (False, 64, 2, 4, 1, 132),
]
USUAL = [(4 * K, 1), (4 * K, 256), (16 * K, 64)]  # lengths and batches at which it matters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.manual_seed(0)
    inputs = {f"{length // K}k": Input.of(1, length) for length in (128 * K, 1024 * K)}
    expected = {case: x.expected() for case, x in inputs.items()}
    records = []
    for setting in CONFIGURATIONS:
        _set(setting)
        record: dict = {"hopper, keys, stages, warps, ahead, splits": setting}
        for case, x in inputs.items():
            record[case] = _one(x, expected[case])
        print(json.dumps(record), flush=True)
        records.append(record)
    _set(CONFIGURATIONS[0])
    records += [_apart(case, x) for case, x in inputs.items()] + _usual()
    out.write_text(json.dumps({"place": place(), "records": records}, indent=1) + "\n")


def _set(setting: tuple) -> None:
    op.HOPPER, op.KEYS, op.STAGES, op.WARPS, op.AHEAD, op.SPLITS = setting
    mla_decode_hopper.AHEAD = op.AHEAD


def _apart(case: str, x: Input) -> dict:
    """Each kernel's own time, from the profiler."""
    for _ in range(3):
        x.ours()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(10):
            x.ours()
        torch.cuda.synchronize()
    found = {row.key: round(row.device_time_total / row.count, 1) for row in profile.key_averages() if row.count >= 10}
    record = {"case": case, "us of each kernel, two of _project a run": found}
    print(json.dumps(record), flush=True)
    return record


def _one(x: Input, expected: tuple[torch.Tensor]) -> dict | str:
    try:
        wrong = errors(x.ours(), expected)[0]
        return {"us": round(1e3 * graph_ms(x.ours), 1), "rel_err": wrong}
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"


def _usual() -> list[dict]:
    """Short splits serve a batch of 1, long ones a large batch."""
    records = []
    for length, batch in USUAL:
        x = Input.of(batch, length)
        expected = x.expected()
        for op.SHORTEST, op.USUAL in ((128, 128), (128, 512), (256, 512)):
            setting = {"shortest": op.SHORTEST, "usual": op.USUAL}
            record = {"batch": batch, "length": length, **setting, "found": _one(x, expected)}
            print(json.dumps(record), flush=True)
            records.append(record)
    return records


if __name__ == "__main__":
    main()
