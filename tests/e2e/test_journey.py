"""A reader's journeys through the whole system over REST, with processes killed on the way."""

import signal
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from services.local.demo import sample_questions
from services.local.rest import Refused
from tests.e2e.conftest import LiveSystem

pytestmark = pytest.mark.timeout(900)  # a whole book on two busy cores
Json = dict[str, Any]
TURN_TOKENS = 2_000  # a question with its passages and the answer, at most; a book has more


def text_of(system: LiveSystem, source: Json) -> str:
    kind = "repositories" if source["kind"] == "repository" else "documents"
    pieces, start = [], 0
    while start < source["characters"]:
        piece = system.rest.call("GET", f"/v1/{kind}/{source['id']}/text", params={"from": start})
        pieces.append(piece["text"])
        start = piece["to"]
    return "".join(pieces)


def check_quotes(text: str, quotes: list[Json]) -> None:
    for quote in quotes:
        start, stop = quote["char"]
        assert text[start:stop] == quote["text"]


def words(message: Json) -> tuple[Any, ...]:
    """What an answer says and stands on; not how long it took."""
    return message["answer"], message["answered"], [(q["text"], q["char"]) for q in message["quotes"]]


# ---- a book ----------------------------------------------------------------------------------------------------------


def test_a_book_is_read_whole_and_its_text_comes_back_letter_for_letter(
    live_system: LiveSystem, book: Json, sample_book: Path
) -> None:
    assert book["status"] == "ready"
    assert book["tokens"] > 1000
    assert len(book["outline"]) > 1
    assert text_of(live_system, book) == sample_book.read_text(encoding="utf-8")


def test_every_summary_is_made_of_the_books_own_sentences(live_system: LiveSystem, book: Json) -> None:
    summaries = live_system.rest.summaries(book)
    if summaries["status"] == "none":
        summaries = live_system.rest.summarise(book)
    job = live_system.wait(summaries["job_id"])
    assert job["status"] == "succeeded", job
    summaries, text = live_system.rest.summaries(book), text_of(live_system, book)
    assert summaries["whole"] and summaries["chapters"]
    for summary in [summaries["whole"], *summaries["chapters"]]:
        assert summary["quotes"]
        check_quotes(text, summary["quotes"])


def test_questions_are_answered_with_quotes_that_stand_in_the_book(live_system: LiveSystem, book: Json) -> None:
    session, text = live_system.rest.session(book), text_of(live_system, book)
    for question in sample_questions():
        message = live_system.rest.ask(session, question)
        assert message["status"] == "succeeded"
        assert message["answer"]
        check_quotes(text, message["quotes"])


def test_a_killed_engine_reads_no_token_of_the_book_again(live_system: LiveSystem, book: Json) -> None:
    question = sample_questions()[0]
    before = live_system.rest.ask(live_system.rest.session(book), question)
    session = live_system.rest.session(book)
    killed = live_system.kill_engine()
    after = live_system.rest.ask(session, question)
    assert live_system.pids()["inference"] != killed
    assert after["usage"]["resumed_tokens"] >= book["tokens"]
    assert 0 < after["usage"]["read_tokens"] < TURN_TOKENS < book["tokens"]
    assert words(after) == words(before)


def test_a_conversation_goes_on_after_the_engine_was_killed(live_system: LiveSystem, book: Json) -> None:
    first, second = sample_questions()[:2]
    unbroken, broken = live_system.rest.session(book), live_system.rest.session(book)
    for session in (unbroken, broken):
        live_system.rest.ask(session, first)
    expected = live_system.rest.ask(unbroken, second)
    live_system.kill_engine()
    assert words(live_system.rest.ask(broken, second)) == words(expected)


def test_forks_part_and_a_rewound_session_stands_where_it_stood(live_system: LiveSystem, book: Json) -> None:
    rest, (first, second, third) = live_system.rest, sample_questions()[:3]
    session = rest.session(book)
    rest.ask(session, first)
    path = f"/v1/sessions/{session['id']}"
    mark = rest.call("POST", f"{path}/bookmarks", json={"name": "after the first"})
    expected = rest.ask(session, second)
    fork = rest.call("POST", f"{path}/fork", json={"bookmark": mark["id"]})
    assert fork["parent"] == session["id"]
    assert len(rest.call("GET", f"/v1/sessions/{fork['id']}/messages")["data"]) == 1
    rest.ask(fork, third)
    rest.call("POST", f"{path}/rewind", json={"bookmark": mark["id"]})
    again = rest.ask(session, second)
    assert words(again) == words(expected)
    assert [m["question"] for m in rest.call("GET", f"{path}/messages")["data"]] == [first, second]


def test_the_same_file_again_is_taken_over_and_a_longer_one_is_read_from_where_it_differs(
    live_system: LiveSystem, book: Json, sample_book: Path, tmp_path: Path
) -> None:
    again = live_system.read(sample_book)
    assert (again["plan"]["known_tokens"], again["plan"]["to_read"]) == (book["tokens"], 0)
    assert (again["reading"]["shared_tokens"], again["reading"]["read_tokens"]) == (book["tokens"], 0)
    (tmp_path / "grown.md").write_text(sample_book.read_text() + "\n## Chapter 99. The Flood\n\nThe estuary rose.\n")
    grown = live_system.read(tmp_path / "grown.md")
    assert grown["plan"]["from"]["source_id"] in (book["id"], again["id"])
    assert 0 < grown["reading"]["read_tokens"] < book["tokens"] / 2
    assert grown["reading"]["shared_tokens"] + grown["reading"]["read_tokens"] == grown["tokens"] > book["tokens"]
    question = sample_questions()[0]
    ours, theirs = (live_system.rest.ask(live_system.rest.session(one), question) for one in (again, book))
    assert words(ours) == words(theirs)


def another(sample_book: Path, folder: Path, name: str) -> Path:
    """A book that shares its first token with no other: one that is known already would not be read at all."""
    (folder / name).write_text(f"# {name}\n\n{sample_book.read_text()}")
    return folder / name


def test_a_killed_worker_does_not_lose_the_book_it_was_reading(
    live_system: LiveSystem, sample_book: Path, tmp_path: Path
) -> None:
    source = live_system.rest.upload(another(sample_book, tmp_path, "second.md"))
    _until_reading(live_system, source["job_id"])
    live_system.kill("worker-background")
    job = live_system.wait(source["job_id"])
    assert job["status"] == "succeeded", job
    assert live_system.rest.source(source)["status"] == "ready"


def test_a_killed_engine_does_not_lose_the_book_it_was_reading(
    live_system: LiveSystem, sample_book: Path, tmp_path: Path
) -> None:
    source = live_system.rest.upload(another(sample_book, tmp_path, "third.md"))
    _until_reading(live_system, source["job_id"])
    live_system.kill_engine()
    job = live_system.wait(source["job_id"])
    assert job["status"] == "succeeded", job


def _until_reading(system: LiveSystem, job_id: str) -> None:
    """Until some of the book has been read, or it is too late to see that."""
    for event, data in system.rest.follow(job_id):
        if event == "progress" and data.get("phase") == "reading" and data.get("done"):
            return


# ---- a repository ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def repository(live_system: LiveSystem, tmp_path_factory: pytest.TempPathFactory) -> Json:
    path = tmp_path_factory.mktemp("repository") / "small.tar.gz"
    files = {
        "small/shapes.py": "import math\n\n\ndef circle_area(radius):\n    return math.pi * radius**2\n",
        "small/store.py": "def save_to_disk(path, text):\n    path.write_text(text)\n",
        "small/words.py": "def count_words(text):\n    return len(text.split())\n",
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            target = path.parent / Path(name).name
            target.write_text(text)
            archive.add(target, name)
    return live_system.read(path)


def test_a_question_about_a_repository_is_answered_with_a_path_and_lines(
    live_system: LiveSystem, repository: Json
) -> None:
    message = live_system.rest.ask(live_system.rest.session(repository), "Where is the area of a circle computed?")
    quote = message["quotes"][0]
    assert quote["path"].endswith("shapes.py")
    assert quote["line"][0] == 4
    check_quotes(text_of(live_system, repository), message["quotes"])


# ---- the whole system ------------------------------------------------------------------------------------------------


def test_what_the_server_refuses_it_refuses_with_a_reason(live_system: LiveSystem, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(Refused, match="empty"):
        live_system.rest.upload(tmp_path / "empty.txt")


def test_after_a_restart_of_everything_the_book_is_still_read(live_system: LiveSystem, book: Json) -> None:
    """Ctrl-C leaves no process; `make run` again answers from the saved reading."""
    question = sample_questions()[0]
    before = live_system.rest.ask(live_system.rest.session(book), question)
    assert live_system.stop(signal.SIGINT) == 0
    assert live_system.processes() == []
    live_system.start()
    after = live_system.rest.ask(live_system.rest.session(book), question)
    assert after["usage"]["resumed_tokens"] >= book["tokens"]
    assert after["usage"]["read_tokens"] < TURN_TOKENS
    assert words(after) == words(before)


def test_a_killed_supervisor_leaves_no_process(live_system: LiveSystem) -> None:
    assert live_system.process is not None
    live_system.process.kill()
    live_system.process.wait()
    deadline = time.monotonic() + 15
    while live_system.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert live_system.processes() == []
    live_system.start()
