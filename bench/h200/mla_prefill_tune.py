"""Which tiles the kernels of kernels/gpu/mla_prefill.py should have: their constants are set here in turn.

python -m bench.h200.mla_prefill_tune --out FILE
"""

import argparse
import json
from pathlib import Path

import torch

from bench.h200.measuring import eager_ms, errors, place
from bench.h200.mla_prefill import Input, K
from kernels.gpu import mla_prefill as op

ATTEND = [(64, 4, 8), (128, 2, 8), (32, 4, 8)]  # keys, stages, warps
EXPAND = [(128, 256, 64, 3, 8), (128, 128, 64, 3, 4), (128, 128, 64, 4, 8), (128, 256, 64, 4, 8)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.manual_seed(0)
    many = Input.of(8 * K, 32 * K)
    records = _try("ATTEND", ATTEND, many)
    records += _try("EXPAND", EXPAND, Input.of(128, 128 * K))
    out.write_text(json.dumps({"place": place(), "records": records}, indent=1) + "\n")


def _try(name: str, settings: list, x: Input) -> list[dict]:
    """For EXPAND: few rows of many keys, so that expanding them is most of the time."""
    expected, arguments, usual = x.expected(), x.packed(), getattr(op, name)
    records = []
    for setting in settings:
        setattr(op, name, setting)
        record = {"constant": name, "setting": setting, "rows": len(x.q), "length": x.length}
        try:
            wrong = errors(op.mla_prefill(*arguments, [x.length])[x.sampled()], expected)[0]
            record |= {"ms": round(eager_ms(lambda: op.mla_prefill(*arguments, [x.length])), 4), "rel_err": wrong}
        except Exception as error:
            record["error"] = f"{type(error).__name__}: {str(error)[:200]}"
        print(json.dumps(record), flush=True)
        records.append(record)
    setattr(op, name, usual)
    return records


if __name__ == "__main__":
    main()
