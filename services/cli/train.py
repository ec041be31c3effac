"""`shiori train`: the model on texts and questions of one's own (docs/fine-tuning.md)."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.progress import Bar, counting
from services.cli.talk import err, out, stop

if TYPE_CHECKING:
    from lab.finetune.run import Event, Settings, Step

EVERY = 10  # seconds between two lines where there is no terminal
File = Annotated[Path, typer.Option(exists=True, dir_okay=False, help="JSONL: one text, question or summary a line.")]


def train(
    data: File,
    out_dir: Annotated[Path, typer.Option("--out", file_okay=False, help="The run's folder; the model is OUT/model.")],
    valid: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Rows to measure by. Else every tenth text of --data."),
    ] = None,
    model: Annotated[Path, typer.Option(exists=True, file_okay=False, help="What to begin with.")] = Path("lab/model"),
    epochs: Annotated[int, typer.Option(min=1, help="How often every row is read.")] = 4,
    steps: Annotated[int | None, typer.Option(min=1, help="So many steps instead of --epochs.")] = None,
    rate: Annotated[float, typer.Option(min=1e-8, max=1.0, help="Highest learning rate.")] = 3e-4,
    seed: Annotated[int, typer.Option(help="Decides the order, and which texts are held out.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on where the run in --out stood, or begin it anew.")] = True,
) -> None:
    """Fine-tunes the model on your own texts and questions, and says what that did to perplexity, accuracy and F1."""
    try:
        from lab.finetune import run  # torch: not for the commands that need none
    except ModuleNotFoundError as error:
        raise stop(f"training needs a source tree after make setup; here {error.name} is missing") from None
    settings = run.Settings(data, valid, model, out_dir, epochs, steps, rate, seed)
    try:
        found = _watch(run.run(settings, resume))
    except (run.DataError, run.checkpoint.RunError, OSError) as error:
        raise stop(str(error)) from None
    _show(settings, found["before"], found["after"])


def _watch(events: "Iterator[Event]") -> dict[str, dict[str, Any]]:
    """Shows what goes on; the scores, before and after, at last."""
    from lab.finetune.run import Found, Scoring

    found: dict[str, dict[str, Any]] = {}
    with ExitStack() as bars:
        shown: dict[str, Bar] = {}
        told = _Told()
        for event in events:
            if isinstance(event, Found):
                found[event.when] = event.scores
                bars.pop_all().close()
                shown.clear()
                continue
            what = "measuring (rows)" if isinstance(event, Scoring) else "training (tokens)"
            if what not in shown:
                shown[what] = bars.enter_context(counting(what))
            shown[what].to(event.done, event.total)
            if not isinstance(event, Scoring):
                told.step(event)
    return found


class _Told:
    """A line now and then: loss, rate and time left; the only word where no bar can move."""

    def __init__(self) -> None:
        self._begun, self._last = time.monotonic(), 0.0
        self._from: int | None = None

    def step(self, step: "Step") -> None:
        now = time.monotonic()
        if self._from is None:
            self._begun, self._from = now, step.done
        elif now - self._last >= EVERY or step.number == step.steps:
            self._last = now
            speed = (step.done - self._from) / max(now - self._begun, 1e-6)
            left = (step.total - step.done) / max(speed, 1e-6)
            err.print(
                f"step {step.number}/{step.steps}, loss {step.loss:.3f}, {speed:,.0f} tokens/s, "
                f"{left // 60:.0f} min {left % 60:.0f} s left"
            )


def _show(settings: "Settings", before: dict[str, Any], after: dict[str, Any]) -> None:
    out.print(f"{'':20}{'before':>10}{'after':>10}{'95 % after':>20}{'n':>8}")
    for name, now in after.items():
        low, high = now["ci95"]
        was = before[name]["value"] if name in before else "-"
        out.print(f"{name:20}{was:>10}{now['value']:>10}{f'{low} … {high}':>20}{now['n']:>8}")
    model = settings.out / "model"
    out.print(f"\nThe model is {model}. To use it: SHIORI_MODEL_DIR={model} make run", soft_wrap=True)
