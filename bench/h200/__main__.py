"""Our GPU kernels beside their rivals.

    python -m bench.h200 --out bench/results/h200/kda_prefill.json [--only kda_prefill …] [--commit HASH]

Each file of this folder named in OPS has ``cases() -> Iterator[Case]``.
"""

import argparse
import json
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import torch

from bench.h200.measuring import measure, place

OPS = ["kda_prefill", "kda_decode", "kda_training", "mla_decode", "mla_prefill", "moe", "rows"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder; a file for each op")
    parser.add_argument("--only", nargs="+", default=OPS, choices=OPS)
    parser.add_argument("--commit", default="", help="of the tree that is measured")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for op in arguments.only:
        records: list[dict[str, object]] = []
        result = {"place": place() | {"commit": arguments.commit}, "records": records}
        for case in import_module(f"bench.h200.{op}").cases():
            for record in measure(case):
                records.append(asdict(record))
                (arguments.out / f"{op}.json").write_text(json.dumps(result, indent=1) + "\n")
            del case
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
