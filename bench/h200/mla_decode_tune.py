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

CONFIGURATIONS = [  # keys, stages, warps, tiles ahead, splits
    *[(64, 2, 4, ahead, 132) for ahead in (0, 1, 2, 3)],
    (64, 2, 8, 2, 132),
    *[(32, 3, 4, ahead, 264) for ahead in (0, 2)],
    (32, 4, 4, 2, 132),
    *[(16, stages, 4, 0, 264) for stages in (4, 5)],
]
SHORTEST = [(4 * K, 1), (16 * K, 64)]  # lengths and batches at which the shortest split matters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.manual_seed(0)
    inputs = {f"{length // K}k": Input.of(1, length) for length in (128 * K, 1024 * K)}
    expected = {case: x.expected() for case, x in inputs.items()}
    records = []
    for setting in CONFIGURATIONS:
        op.KEYS, op.STAGES, op.WARPS, op.AHEAD, op.SPLITS = setting
        record: dict = {"keys, stages, warps, ahead, splits": setting}
        for case, x in inputs.items():
            record[case] = _one(x, expected[case])
        print(json.dumps(record), flush=True)
        records.append(record)
    best = min((r for r in records if isinstance(r["128k"], dict)), key=lambda r: r["128k"]["us"])
    op.KEYS, op.STAGES, op.WARPS, op.AHEAD, op.SPLITS = best["keys, stages, warps, ahead, splits"]
    records += _shortest()
    out.write_text(json.dumps({"place": place(), "records": records}, indent=1) + "\n")


def _one(x: Input, expected: tuple[torch.Tensor]) -> dict | str:
    try:
        wrong = errors(x.ours(), expected)[0]
        return {"us": round(1e3 * graph_ms(x.ours), 1), "rel_err": wrong}
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"


def _shortest() -> list[dict]:
    """With the best tile: a short split serves a batch of 1, a long one a large batch."""
    records = []
    for length, batch in SHORTEST:
        x = Input.of(batch, length)
        expected = x.expected()
        for op.SHORTEST in (128, 256, 512, 1024):
            record = {"shortest": op.SHORTEST, "batch": batch, "length": length, "found": _one(x, expected)}
            print(json.dumps(record), flush=True)
            records.append(record)
    return records


if __name__ == "__main__":
    main()
