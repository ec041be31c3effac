"""The demo: a book is read once, the engine is killed, and the answer comes from the saved reading. REST only."""

import argparse
import hashlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from services.local import archive
from services.local.rest import Refused, Rest
from services.local.show import Bar, Json, Names, Screen, tokens
from services.local.stage import NotStarted, Stage
from services.settings import Settings

SAMPLES = archive.ROOT / "docs" / "samples"
ANY_BOOK = ("Who is the main character?", "Where does it take place?", "What happens at the end?")
OWN_SOURCE = (
    "Where is a quote of the model located in the source text?",
    "Where is a source read segment by segment into a session?",
    "Where is the decay gate computed?",
)
ANY_REPOSITORY = (
    "Where does the program start?",
    "Where are the command line options parsed?",
    "Where are errors handled?",
)


@dataclass(frozen=True)
class Choices:
    book: Path | None
    repository: Path | None
    with_repository: bool
    questions: Sequence[str]
    leave: bool

    @staticmethod
    def of(given: argparse.Namespace) -> "Choices":
        leave = given.exit or os.environ.get("DEMO_EXIT", "") not in ("", "0")
        return Choices(given.book, given.repo, not given.no_repo, given.ask, leave)


@dataclass
class Read:
    """A source that has been read, and what that took."""

    source: Json
    seconds: float

    @property
    def names(self) -> Names:
        return Names(self.source)


def run_demo(choices: Choices) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = Settings()
    key = next(iter(settings.api_keys()), "")
    stage = Stage(settings.data_dir.absolute(), f"http://{settings.host}:{settings.port}", key)
    screen = Screen()
    try:
        status = Demo(screen, stage, choices).run()
        if status == 0 and stage.process is not None and not choices.leave:
            stage.process.wait()
    except KeyboardInterrupt:
        status = 130
    except NotStarted as error:
        screen.line(str(error), "red")
        status = 1
    except (Refused, httpx.HTTPError) as error:
        screen.line(f"The demo cannot go on: {error}. The logs are in {stage.log.parent}.", "red")
        status = 1
    finally:
        stage.close()
    return status


class Demo:
    def __init__(self, screen: Screen, stage: Stage, choices: Choices) -> None:
        self.screen, self.stage, self.choices = screen, stage, choices
        self.rest: Rest

    def run(self) -> int:
        began = time.monotonic()
        self.screen.title("Shiori starts")
        self.rest = self.stage.open()
        self.screen.line(f"ready after {time.monotonic() - began:.1f} s")
        book = self.read(self.choices.book or sample())
        self.summaries(book)
        session, questions = self.rest.session(book.source), self.questions()
        self.screen.title("Questions")
        for question, expected in questions.items():
            self.ask(session, question, book.names, expected)
        proven = self.kill_and_ask(session, next(iter(questions)), book)
        if self.choices.with_repository:
            self.repository()
        self.farewell(time.monotonic() - began)
        return 0 if proven else 1

    # ---- reading -------------------------------------------------------------------------------------------------

    def read(self, path: Path, name: str | None = None) -> Read:
        self.screen.title(f"Reading {name or path.name}")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        known = self.rest.find(name or path.name, sha256)
        if known:
            self.screen.line("It is on the shelf and has been read before: nothing is read again.")
        source = known or self.follow(self.rest.upload(path, name))
        found = self.rest.source(source)
        seconds = reading_seconds(self.rest.job(found["job_id"])) if found.get("job_id") else 0.0
        self.describe(found, seconds)
        return Read(found, seconds)

    def follow(self, source: Json) -> Json:
        Bar(self.screen).follow(self.rest.follow(source["job_id"]))
        job = self.rest.job(source["job_id"])
        if job["status"] != "succeeded":
            raise Refused(f"the reading {job['status']}: {(job.get('error') or {}).get('detail', 'no reason given')}")
        return source

    def describe(self, source: Json, seconds: float) -> None:
        count = source.get("tokens") or 0
        pace = f" in {seconds:.1f} s ({count / seconds:,.0f} tokens/s)" if seconds else ""
        parts = f"{len(source['outline'])} {'files' if source['kind'] == 'repository' else 'chapters'}"
        self.screen.line(
            f"{source['title']}: {source['characters']:,} characters, {parts}, {count:,} tokens read{pace}"
        )

    # ---- summaries -----------------------------------------------------------------------------------------------

    def summaries(self, book: Read) -> None:
        self.screen.title("Summaries, made of the text's own sentences")
        found = self.rest.summaries(book.source)
        if found["status"] in ("none", "failed", "cancelled"):
            found = self.rest.summarise(book.source)
        if found["status"] != "ready":
            Bar(self.screen).follow(self.rest.follow(found["job_id"]))
            found = self.rest.summaries(book.source)
        for summary in found["chapters"]:
            self.show_summary(summary, book.names)
        if found["whole"]:
            self.show_summary({**found["whole"], "title": f"The whole: {book.source['title']}"}, book.names)

    def show_summary(self, summary: Json, names: Names) -> None:
        self.screen.line()
        self.screen.line(f"{summary['title']}   (chosen by: {summary['method']})", "bold")
        for quote in summary["quotes"]:
            self.screen.quote(quote, names.of(quote))

    # ---- questions -----------------------------------------------------------------------------------------------

    def questions(self) -> dict[str, str]:
        """Each with what its answer should be, where somebody has put that down."""
        if self.choices.questions or self.choices.book:
            return dict.fromkeys(self.choices.questions or ANY_BOOK, "")
        return {fact["question"]: fact["answer"] or "the book does not say" for fact in sample_facts()}

    def ask(self, session: Json, question: str, names: Names, expected: str = "") -> tuple[Json, float]:
        began = time.monotonic()
        message = self.rest.ask(session, question)
        took = time.monotonic() - began
        self.screen.answer(question, message, names, took)
        if expected:
            self.screen.indented(f"its author's own answer: {expected}", "dim")
        return message, took

    def kill_and_ask(self, session: Json, question: str, book: Read) -> bool:
        """True when the answer came from the saved reading: no token of the book was computed again."""
        self.screen.title("kill -9 the engine, and ask again")
        self.screen.line(f"engine process {self.stage.kill_engine()} is gone; its supervisor starts another")
        message, took = self.ask(session, question, book.names)
        return self.verdict(message.get("usage") or {}, message.get("timing") or {}, took, book)

    def verdict(self, usage: Json, timing: Json, took: float, book: Read) -> bool:
        count = book.source.get("tokens") or 0
        again = usage.get("resumed_tokens", 0) < count
        self.screen.line()
        self.screen.line(
            f"The book's reading: {count:,} tokens, {book.seconds:.1f} s. After the kill: {tokens(usage)},"
        )
        restore = f"of which the state came back from the vault in {timing.get('restore_ms', 0):.0f} ms"
        self.screen.line(f"answered {took:.1f} s after the kill, the engine's restart included, {restore}.")
        if again:
            self.screen.line("NOT AS PROMISED: tokens of the book were read again.", "bold red")
        else:
            self.screen.line("No token of the book was read again: what was read now is the question.", "bold green")
        return not again

    # ---- a repository --------------------------------------------------------------------------------------------

    def repository(self) -> None:
        if self.choices.repository:
            return self.ask_repository(self.choices.repository, ANY_REPOSITORY)
        with tempfile.TemporaryDirectory(prefix="shiori-demo-") as folder:
            self.ask_repository(archive.own_source(Path(folder)), OWN_SOURCE)

    def ask_repository(self, path: Path, questions: Sequence[str]) -> None:
        read = self.read(path)
        session = self.rest.session(read.source)
        for question in questions:
            self.ask(session, question, read.names)

    def farewell(self, seconds: float) -> None:
        self.screen.title(f"The demo took {seconds:.0f} s")
        if self.choices.leave and self.stage.process is not None:
            return self.screen.line("Everything stops now.")
        self.screen.line(f"The books are open at {self.rest.http.base_url}", "bold")
        if self.stage.process is not None:
            self.screen.line("Ctrl-C stops everything; `make run` opens it again, and nothing will be read twice.")


def reading_seconds(job: Json) -> float:
    """From the job's start to its end, as the server says."""
    from datetime import datetime

    if not (job.get("started_at") and job.get("finished_at")):
        return 0.0
    return (datetime.fromisoformat(job["finished_at"]) - datetime.fromisoformat(job["started_at"])).total_seconds()


def sample() -> Path:
    found = sorted(path for path in SAMPLES.glob("*.md") if path.name != "README.md")
    if not found:
        raise NotStarted(f"there is no sample book in {SAMPLES}; name one: make demo BOOK=path")
    return found[0]


def sample_facts() -> list[Json]:
    """Three facts from all over the sample, and one thing that it does not say; its author put them down beside it."""
    rows: list[Json] = json.loads((SAMPLES / "facts.json").read_text(encoding="utf-8"))
    said = [row for row in rows if row["answer"]]
    return [*(said[len(said) * n // 6] for n in (1, 3, 5)), *[row for row in rows if not row["answer"]][:1]]


def sample_questions() -> list[str]:
    return [fact["question"] for fact in sample_facts()]
