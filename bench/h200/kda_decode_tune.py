"""The configurations of kernels/gpu/kda_decode.py that make sense, timed and compared with float64.

python -m bench.h200.kda_decode_tune --out FILE
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from bench.h200.kda_decode import BYTES, LAYERS, Inputs, several
from bench.h200.measuring import COPY, errors, graph_ms
from kernels.gpu import kda_decode as op

CONFIGURATIONS: list[dict[str, Any]] = [{"EARLY": 0}, {"EARLY": 1 << 20}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.manual_seed(0)
    layers = several(1, LAYERS)
    batches = {batch: several(batch, 5) for batch in (64, 256)}
    probe = Inputs.make(8)
    expected = probe.defined()
    records = []
    for configuration in CONFIGURATIONS:
        for name, value in configuration.items():
            setattr(op, name, value)
        record: dict[str, Any] = dict(configuration)
        try:
            tried = probe.again()
            record["rel_err"] = errors((tried.ours(), tried.pool), expected)
            record["us B=1, a layer of 20"] = us(lambda: [x.ours() for x in layers]) / LAYERS
            for batch, own in batches.items():
                record[f"us B={batch}"] = us(own[0].ours)
                record[f"us B={batch}, a layer of 5"] = us(lambda own=own: [x.ours() for x in own]) / 5
        except Exception as error:
            record["error"] = f"{type(error).__name__}: {str(error)[:300]}"
        print(json.dumps(record), flush=True)
        records.append(record)
    floors = {f"floor us B={batch}": round(1e6 * batch * BYTES / COPY, 2) for batch in (1, 64, 256)}
    out.write_text(json.dumps({"floors": floors, "records": records}, indent=1) + "\n")


def us(run: Any) -> float:
    return round(1e3 * graph_ms(run), 2)


if __name__ == "__main__":
    main()
