"""How far the loading of the weights is: a bar on a terminal, else a line in the log every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

log = structlog.get_logger(__name__)

_EVERY_S = 5.0


@contextmanager
def shown() -> Iterator[Callable[[int, int], None]]:
    """A function to be told (bytes read, bytes in all)."""
    if not sys.stderr.isatty():
        yield Lines().heard
        return
    columns = (TextColumn("weights"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("weights", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class Lines:
    """Silent about what takes less than a few seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._began = now, now()
        self._said = self._began

    def heard(self, done: int, total: int) -> None:
        now = self._now()
        if now - self._said < _EVERY_S:
            return
        self._said = now
        rate = done / (now - self._began)
        log.info(
            "loading_weights",
            gb=round(done / 1e9, 1),
            of_gb=round(total / 1e9, 1),
            gb_per_s=round(rate / 1e9, 2),
            seconds_left=round((total - done) / rate),
        )
