"""Conversations: one question at a time, at a head that moves; rewind and fork."""

import pytest

from services.errors import AlreadyExists, Conflict, HeadMoved, NotFound
from services.library import deletion, sessions, sources
from services.library.db import Database

T = "default"


def session_id(database: Database) -> str:
    with database.write() as db:
        source = sources.create(db, T, "document", "A book")
        return sessions.create(db, T, [source.id]).id


def ask(database: Database, session: str, question: str, expected: str | None = None) -> str:
    with database.write() as db:
        return sessions.add_turn(db, T, session, question, expected).id


def answered(database: Database, session: str, question: str) -> str:
    turn = ask(database, session, question)
    quote = {"text": "q", "source_id": "doc_x", "char": [0, 1], "line": None, "page": None, "path": None}
    quote |= {"chapter": None, "match": "exact", "span": None}
    with database.write() as db:
        sessions.complete(db, T, turn, [quote], answer=f"to {question}", engine_mark=f"m{question}")
        sessions.complete(db, T, turn, [quote], answer=f"to {question}", engine_mark=f"m{question}")
    return turn


def questions(database: Database, session: str) -> list[str]:
    with database.read() as db:
        return [turn.question for turn in sessions.history(db, T, session)]


def test_a_second_question_waits_its_turn(database: Database) -> None:
    session = session_id(database)
    ask(database, session, "1")
    with pytest.raises(Conflict) as busy:
        ask(database, session, "2")
    assert busy.value.code == "session_busy"


def test_a_moved_head_is_a_conflict_that_says_where_it_is(database: Database) -> None:
    session = session_id(database)
    first = answered(database, session, "1")
    with pytest.raises(HeadMoved) as moved:
        ask(database, session, "2", expected=session)
    assert moved.value.extra["head"] == first
    ask(database, session, "2", expected=first)


def test_rewinding_leaves_later_turns_reachable(database: Database) -> None:
    session = session_id(database)
    answered(database, session, "1")
    with database.write() as db:
        bookmark = sessions.add_bookmark(db, T, session, "here")
    second = answered(database, session, "2")
    for mark, expected in (("here", ["1"]), (second, ["1", "2"]), (bookmark.id, ["1"]), (session, [])):
        with database.write() as db:
            sessions.rewind(db, T, session, mark)
        assert questions(database, session) == expected
    with database.write() as db, pytest.raises(NotFound):
        sessions.rewind(db, T, session, "nowhere")


def test_a_bookmarks_name_is_unique_in_its_session(database: Database) -> None:
    session = session_id(database)
    with database.write() as db:
        sessions.add_bookmark(db, T, session, "here")
    with database.write() as db, pytest.raises(AlreadyExists):
        sessions.add_bookmark(db, T, session, "here")


def test_a_fork_has_its_own_copy_of_the_history(database: Database) -> None:
    session = session_id(database)
    first = answered(database, session, "1")
    answered(database, session, "2")
    with database.write() as db:
        fork = sessions.fork(db, T, session, first)
        assert (fork.parent, fork.forked_at) == (session, first)
    answered(database, fork.id, "3")
    assert questions(database, fork.id) == ["1", "3"]
    assert questions(database, session) == ["1", "2"]
    with database.write() as db:
        deletion.delete_session(db, T, session)
    with database.read() as db:
        history = sessions.history(db, T, fork.id)
    assert [(turn.ordinal, turn.engine_mark, len(turn.quotes)) for turn in history] == [(1, "m1", 1), (2, "m3", 1)]


def test_a_failed_question_leaves_the_head_and_is_shown_last(database: Database) -> None:
    session = session_id(database)
    answered(database, session, "1")
    failed = ask(database, session, "2")
    with database.write() as db:
        sessions.set_turn_status(db, failed, "failed", {"code": "x"})
    answered(database, session, "3")
    assert questions(database, session) == ["1", "3"]
