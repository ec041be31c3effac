"""`python -m services.local run` and `… demo`."""

import argparse
import os
import sys
from pathlib import Path

from services.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    arguments = parser().parse_args()
    os.chdir(ROOT)  # the defaults (var, lab/model, web/dist) are meant from here
    if arguments.command == "demo":
        from services.local.demo import Choices, run_demo

        return run_demo(Choices.of(arguments))
    return supervise()


def supervise() -> int:
    from services.local import system
    from services.local.supervisor import Supervisor, say

    try:
        plan = system.everything(Settings(), os.environ)
    except ValueError as error:  # a setting that makes no sense
        say(f"CANNOT START: {error}")
        return 1
    return Supervisor(plan).run()


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="python -m services.local", description="Shiori on one machine.")
    commands = root.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="start everything; Ctrl-C stops it")
    demo = commands.add_parser("demo", help="read a book, ask, kill the engine, ask again")
    demo.add_argument("--book", type=_file, help="a book to read instead of the sample: txt, md, epub, pdf, html")
    demo.add_argument("--repo", type=_file, help="a repository to read instead of this one: zip or tar.gz")
    demo.add_argument("--ask", action="append", default=[], metavar="QUESTION", help="ask this; may be repeated")
    demo.add_argument("--no-repo", action="store_true", help="leave out the repository")
    demo.add_argument("--exit", action="store_true", help="stop everything at the end (also DEMO_EXIT=1)")
    return root


def _file(name: str) -> Path:
    path = Path(name).expanduser().absolute()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {path}")
    return path


if __name__ == "__main__":
    sys.exit(main())
