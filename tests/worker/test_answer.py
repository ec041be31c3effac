"""Questions: the engine's session follows the library's head, whatever happened in between."""

from collections.abc import Callable

from services import events, jobs
from services.jobs import Kinds
from services.library import sessions
from tests.worker.conftest import BOOK, System


def heard(system: System, session_id: str) -> list[str]:
    """What the engine's session read after the book."""
    text = "".join(system.twin.named(session_id).segments) if system.twin.describe_session(session_id) else ""
    return [part.split("<|answer|>")[0].removesuffix("<|doc|>") for part in text.split("<|question|>")[1:]]


def test_an_answer_is_stored_with_quotes_that_are_the_texts_own_letters(system: System) -> None:
    source_id = system.ready()
    session = system.session(source_id)
    turn = system.answered(session, "How many times was the lamp lit by Osric Vane in chapter 5?")
    assert turn.status == "succeeded" and turn.origin == "read" and turn.quotes
    assert all(BOOK[slice(*quote.char)] == quote.text for quote in turn.quotes)
    names = [event.event for event in events.read(system.tools.redis, turn.job_id or "")]
    assert names[0] == "message.created" and names[-2:] == ["message.completed", "done"]
    assert {"delta", "citation", "usage"} <= set(names)
    with system.database.read() as db:
        assert sessions.get(db, "default", session).head == turn.id


def test_after_a_rewind_the_engine_has_forgotten_what_came_later(system: System) -> None:
    session = system.session(system.ready())
    first = system.answered(session, "one lamp?")
    system.answered(session, "two lamps?")
    with system.database.write() as db:
        sessions.rewind(db, "default", session, first.id)
    system.answered(session, "three lamps?")
    assert heard(system, session) == ["one lamp?", "three lamps?"]
    with system.database.write() as db:
        sessions.rewind(db, "default", session, session)
    system.answered(session, "four lamps?")
    assert heard(system, session) == ["four lamps?"]


def test_a_fork_goes_on_from_where_it_was_forked_and_leaves_the_other_alone(system: System) -> None:
    session = system.session(system.ready())
    first = system.answered(session, "one lamp?")
    system.answered(session, "two lamps?")
    with system.database.write() as db:
        fork = sessions.fork(db, "default", session, first.id).id
        again = sessions.fork(db, "default", fork, None).id  # a fork of a fork that the engine has not seen yet
    system.answered(again, "three lamps?")
    assert heard(system, again) == ["one lamp?", "three lamps?"]
    assert heard(system, session) == ["one lamp?", "two lamps?"]


def test_a_vault_that_lost_everything_costs_a_reading_not_an_answer(system: System) -> None:
    session = system.session(system.ready())
    system.answered(session, "one lamp?")
    system.twin.path.unlink()
    assert system.answered(session, "two lamps?").origin == "read"


def test_several_sources_are_read_into_one_session(system: System) -> None:
    session = system.session(system.ready(), system.ready("CHAPTER 1\n\nThe ferryman was called Ulla.\n"))
    assert system.answered(session, "Who was the ferryman?").status == "succeeded"


def test_a_cancelled_question_leaves_the_session_where_it_was(
    system: System, later: Callable[[float, Callable[[], object]], None]
) -> None:
    session = system.session(system.ready())
    system.answered(session, "one lamp?")
    system.twin.delay = 0.3
    turn_id, job_id = system.ask(session, "two lamps?")
    later(0.5, lambda: jobs.request_cancel(system.tools.redis, job_id))
    assert system.work(Kinds.answer, turn_id, job_id).status == "cancelled"
    system.twin.delay = 0
    assert heard(system, session) == ["one lamp?"]
    system.answered(session, "three lamps?")
    assert heard(system, session) == ["one lamp?", "three lamps?"]


def test_a_worker_that_died_after_the_engine_kept_the_turn_does_not_keep_it_twice(system: System) -> None:
    session = system.session(system.ready())
    system.answered(session, "one lamp?")
    system.twin.bookmark_session(session, "before")
    list(system.twin.read(session, [], bookmark="lost"))
    system.answered(session, "two lamps?")
    assert heard(system, session) == ["one lamp?", "two lamps?"]


def test_a_session_until_a_chapter_knows_nothing_of_what_comes_after(system: System) -> None:
    source_id = system.ready()
    with system.database.write() as db:
        until = sessions.chapter_end(db, "default", [source_id], 2)
        session = sessions.create(db, "default", [source_id], until=until).id
    turn = system.answered(session, "How often did he light the lamp in chapter 7?")
    assert BOOK[until:].startswith("CHAPTER 4") and turn.evidence
    assert all(evidence["char"][1] <= until for evidence in turn.evidence)
    assert all(quote.char[1] <= until for quote in turn.quotes)
    system.twin.describe_session(session)
    assert system.twin.named(session).segments[0].endswith("The sea was calm.\n\n")
    assert "CHAPTER 4" not in "".join(system.twin.named(session).segments)
