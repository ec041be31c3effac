"""How the demo looks: live progress on a terminal, plain lines in a log."""

import textwrap
import time
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

Json = dict[str, Any]
PLAIN_EVERY = 5.0
PLAIN_WIDTH = 110


class Screen:
    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        if not self.console.is_terminal:
            self.console.width = PLAIN_WIDTH

    def title(self, text: str) -> None:
        self.console.print()
        self.console.rule(f"[bold]{escape(text)}", align="left")

    def line(self, text: str = "", style: str | None = None) -> None:
        self.console.print(escape(text), style=style)

    def indented(self, text: str, style: str | None = None) -> None:
        indent = " " * 4
        folded = textwrap.fill(text, self.console.width - 1, initial_indent=indent, subsequent_indent=indent)
        self.console.print(escape(folded), style=style)

    def quote(self, quote: Json, where: str) -> None:
        self.indented(f"“{' '.join(quote['text'].split())}”", "italic")
        mark = "" if quote.get("match") == "exact" else f"  ({quote.get('match')} match)"
        self.indented(f"— {where}{mark}", "dim")

    def answer(self, question: str, message: Json, names: "Names", took: float) -> None:
        self.line()
        self.line(f"Q  {question}", "bold")
        self.line(f"A  {' '.join((message['answer'] or '').split())}")
        for quote in message["quotes"]:
            self.quote(quote, names.of(quote))
        origin = {"read": "from the whole reading", "retrieved": "from passages only"}.get(message["origin"] or "", "")
        self.indented(
            ", ".join(part for part in (f"{took:.1f} s", origin, tokens(message.get("usage"))) if part), "dim"
        )


class Names:
    """Where a quote stands, in words a person would use."""

    def __init__(self, source: Json) -> None:
        self.outline = source.get("outline") or []

    def of(self, quote: Json) -> str:
        line, char = quote.get("line") or [0, 0], quote.get("char") or [0, 0]
        if quote.get("path"):
            return f"{quote['path']}:{line[0]}"
        page = f"page {quote['page']}" if quote.get("page") is not None else ""
        lines = f"line {line[0]}" if line[0] == line[1] else f"lines {line[0]}–{line[1]}"
        places = (self.chapter(quote.get("chapter")), page, lines, f"characters {char[0]:,}–{char[1]:,}")
        return ", ".join(place for place in places if place)

    def chapter(self, index: int | None) -> str:
        if index is None or not 0 <= index < len(self.outline):
            return ""
        title: str = self.outline[index]["title"]
        return title


def tokens(usage: Json | None) -> str:
    if not usage:
        return ""
    read, resumed = usage.get("read_tokens", 0), usage.get("resumed_tokens", 0)
    return f"{resumed:,} tokens resumed, {read:,} read now"


class Bar:
    """Follows one job. Plain lines, one every two seconds, where there is no terminal."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.plain_at = 0.0
        self.progress = Progress(
            TextColumn("  {task.description:<34}"),
            BarColumn(30),
            TextColumn("{task.fields[note]}"),
            console=screen.console,
        )
        self.task: TaskID | None = None

    def follow(self, events: Iterable[tuple[str, Json]]) -> None:
        if self.screen.console.is_terminal:
            with self.progress:
                self._all(events)
        else:
            self._all(events)

    def _all(self, events: Iterable[tuple[str, Json]]) -> None:
        for event, data in events:
            if event == "progress":
                self.step(data)
            elif event == "warning":
                self.screen.line(f"  note: {data.get('detail') or data.get('message') or data}", "yellow")

    def step(self, data: Json) -> None:
        what, note = _label(data), _note(data)
        if self.screen.console.is_terminal:
            self._bar(what, note, data)
        elif time.monotonic() >= self.plain_at or _finished(data):
            self.plain_at = time.monotonic() + PLAIN_EVERY
            self.screen.line(f"  {what:<34} {note}")

    def _bar(self, what: str, note: str, data: Json) -> None:
        done, total = data.get("done") or 0, data.get("total") or None
        if self.task is None:
            self.task = self.progress.add_task(what, total=total, note=note)
        self.progress.update(self.task, description=what, completed=done, total=total, note=note)


def _label(data: Json) -> str:
    title = f": {data['title']}" if data.get("title") else ""
    return f"{data.get('phase') or 'working'}{title}"[:34]


def _finished(data: Json) -> bool:
    return bool(data.get("total")) and data.get("done") == data.get("total")


def _note(data: Json) -> str:
    done, total, rate, eta = (data.get(name) for name in ("done", "total", "rate", "eta_s"))
    parts = [f"{done:,} of {total:,}" if total and done is not None else ""]
    parts += [f"{rate:,.0f} tokens/s" if rate else "", f"{eta:.0f} s to go" if eta else ""]
    return ", ".join(part for part in parts if part)
