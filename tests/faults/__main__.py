"""`python -m tests.faults --kills 1000 --flips 10000`: the long form. See `make faults`."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

from tests.conftest import plain_logs
from tests.faults.runner import FAULTS, Plan, run
from tests.faults.world import Lab


def main() -> int:
    given = _arguments()
    with tempfile.TemporaryDirectory(prefix="shiori-faults-") as name:
        folder = Path(name)
        logging.basicConfig(filename=folder / "engine.log")
        plain_logs()
        lab = Lab(folder)
        try:
            report = run(lab, Plan(given.kills, given.flips, given.seed, given.only or list(FAULTS)))
        finally:
            lab.stop()
        if given.keep_logs:
            given.keep_logs.mkdir(parents=True, exist_ok=True)
            (folder / "lives.log").rename(given.keep_logs / "lives.log")
    print(report.summary())
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(report.json())
    return 1 if report.failures else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=40, help="processes killed with -9 (default 40)")
    parser.add_argument("--flips", type=int, default=200, help="bits flipped, one at a time (default 200)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=_names, help=f"of {', '.join(FAULTS)}")
    parser.add_argument("--out", type=Path, help="where the summary goes, as JSON")
    parser.add_argument("--keep-logs", type=Path, help="a folder for what the engines said")
    return parser.parse_args()


def _names(given: str) -> list[str]:
    names = given.split(",")
    if unknown := set(names) - set(FAULTS):
        raise argparse.ArgumentTypeError(f"no fault {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
