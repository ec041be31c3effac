"""Measure the shipped model through the product; see lab/README.md for what each family means.

    python -m lab.eval [FAMILY...] [--n N] [--seed S] [--quick] [--squad FILE] [--out lab/results/eval.json]

Without names: all families into a file begun anew, about 40 minutes on two cores; --quick: ten minutes, wide
intervals, no text of 64,000 words.
The figures of a family are in the file when it ends, so a run that was broken off goes on with the names of the others.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from lab.eval import article, bits, functions, leak, needles, squad, summaries, unanswerable
from lab.eval.items import Missing
from lab.eval.product import product
from lab.eval.run import Figures, Run, merged
from services.inference.client import InferenceClient

FAMILIES: dict[str, tuple[Callable[[Run], Figures], int, int]] = {  # measure, n, n with --quick (0: left out)
    "squad": (squad.measure, 300, 60),
    "unanswerable": (unanswerable.measure, 120, 30),
    "article": (article.measure, 150, 40),
    "needles.4k": (partial(needles.measure, 4_000), 4, 2),
    "needles.16k": (partial(needles.measure, 16_000), 2, 1),
    "needles.64k": (partial(needles.measure, 64_000), 2, 0),
    "summaries": (summaries.measure, 120, 24),
    "functions": (functions.measure, 300, 60),
    "bits": (bits.measure, 40, 10),
    "leak": (leak.measure, 1, 1),  # always the whole pack
}


class Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.2f}/s" if task.speed else "")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(FAMILIES)}")
    parser.add_argument("--n", type=int, help="items of each family (needles: texts of single facts)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--squad", type=Path, metavar="FILE", help="a file of one's own in SQuAD's JSON format")
    parser.add_argument("--out", type=Path, default=Path("lab/results/eval.json"))
    asked = parser.parse_args()
    if unknown := set(asked.families) - set(FAMILIES):
        parser.error(f"no family {', '.join(sorted(unknown))}; there are {', '.join(FAMILIES)}")
    return asked


def main() -> int:
    asked = arguments()
    chosen = asked.families or (["squad"] if asked.squad else FAMILIES)
    names = [name for name in chosen if size(asked, name)]
    failed = []
    with started() as client:
        model = client.describe()
        if not asked.families:  # a table of one model
            asked.out.unlink(missing_ok=True)
        for name in names:
            try:
                ended(asked, name, model.fingerprint[:16], measured(asked, name, client))
            except Missing as missing:
                failed.append(name)
                print(f"-- {name}: not measured. {missing}", file=sys.stderr, flush=True)
    return 1 if failed else 0


@contextmanager
def started() -> Iterator[InferenceClient]:
    """The product, with a word while it starts."""
    with ExitStack() as stack:
        with Console(stderr=True).status("starting an engine and its Redis"):
            client = stack.enter_context(product())
        yield client


def size(asked: argparse.Namespace, name: str) -> int:
    _, full, quick = FAMILIES[name]
    return asked.n or (quick if asked.quick else full)


def measured(asked: argparse.Namespace, name: str, client: InferenceClient) -> tuple[Figures, list[str], float]:
    began = time.monotonic()
    with counting(name) as run:
        run = replace(run, client=client, n=size(asked, name), seed=asked.seed, squad=asked.squad)
        figures = FAMILIES[name][0](run)
    return figures, run.notes, time.monotonic() - began


@contextmanager
def counting(name: str) -> Iterator[Run]:
    """A run whose steps move a line with rate, time left and what goes on."""
    bar = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn()
    columns = *bar, TimeElapsedColumn(), TextColumn("{task.fields[doing]}")
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=None, doing="making the questions")
        yield Run(
            None,  # type: ignore[arg-type]
            0,
            total=lambda n: progress.update(task, total=n, doing=""),
            step=lambda: progress.advance(task),
            doing=lambda what: progress.update(task, doing=what),
        )


def ended(asked: argparse.Namespace, name: str, model: str, result: tuple[Figures, list[str], float]) -> None:
    figures, notes, seconds = result
    command = f"python -m lab.eval {name} --n {size(asked, name)} --seed {asked.seed}"
    command += f" --squad {shlex.quote(str(asked.squad))}" if asked.squad else ""
    merged(asked.out, figures, {"command": command, "model": model} | ({"notes": notes} if notes else {}))
    for key, value in figures.items():
        print(f"{key:52} {value['value']:8} {value['unit']:10} {value['ci95']} n={value['n']}", flush=True)
    for note in notes:
        print(f"   {note}")
    print(f"-- {name}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
