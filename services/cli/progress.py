"""Progress with rate and time left, on a terminal's standard error; nothing where there is no terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from services.cli.talk import err


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


class Bar:
    """One line that moves."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def to(self, done: float, total: float | None = None) -> None:
        """A `total` that was a guess grows with what is done."""
        task = self._progress.tasks[self._task]
        total = max(done, task.total or 0) if total is None else total
        self._progress.update(self._task, completed=done, total=total or None)


@contextmanager
def counting(what: str) -> Iterator[Bar]:
    with _bar(what, MofNCompleteColumn(), _Rate()) as bar:
        yield bar


@contextmanager
def moving(what: str, total: int = 0) -> Iterator[Bar]:
    """Bytes."""
    with _bar(what, DownloadColumn(), TransferSpeedColumn(), total=total) as bar:
        yield bar


@contextmanager
def _bar(what: str, *columns: ProgressColumn, total: int = 0) -> Iterator[Bar]:
    shown = (TextColumn("{task.description}"), BarColumn(), *columns, TimeRemainingColumn())
    with Progress(*shown, console=err, transient=True, disable=not err.is_terminal) as progress:
        yield Bar(progress, progress.add_task(what, total=total or None))
