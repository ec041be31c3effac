"""What becomes of a session's blocks when it is asked, and when it is deleted: now, or with the next sweep."""

import pytest

from services import errors
from services.vault.keeper import Keeper
from services.vault.views import now_ms
from tests.cli.system import System

HEAD = "shiori:{default}:head:book"
HOUR_MS = 3_600_000


def keeper_of(system: System) -> Keeper:
    assert system.server is not None and system.server.servicer.loaded is not None
    return system.server.servicer.loaded.keeper


def test_a_session_that_is_answered_from_memory_is_not_idle(system: System) -> None:
    """Nothing is restored, so nothing else would say so to the keeper."""
    assert system.client.describe_session("book").live
    system.redis.hset(HEAD, "used_ms", now_ms() - HOUR_MS)
    assert [name for _, _, name in keeper_of(system).idle(HOUR_MS // 2)] == ["book"]
    system.answer()
    assert not list(keeper_of(system).idle(HOUR_MS // 2))


def test_a_session_in_use_does_not_say_so_with_every_question(system: System) -> None:
    said = str(now_ms() + HOUR_MS).encode()  # so lately that no clock of this test can make it long ago
    system.redis.hset(HEAD, "used_ms", said)
    system.answer()
    assert system.redis.hget(HEAD, "used_ms") == said


def test_a_fork_deleted_later_is_gone_at_once_and_its_blocks_with_the_next_sweep(system: System) -> None:
    before = system.blocks()
    system.client.fork_session("book", "book.try", "start")
    system.read("book.try", "Another ending. " * 80)
    assert len(system.blocks()) > len(before)
    assert system.client.delete_session("book.try", later=True) == 0
    with pytest.raises(errors.NotFound):
        system.client.describe_session("book.try")
    assert len(system.blocks()) > len(before)
    assert system.client.describe_session("book").live  # what else was read stays in the engine's memory
    assert system.shiori("gc").exit_code == 0
    assert system.blocks() == before


def test_a_fork_deleted_later_does_not_come_back_from_the_cold_tier(below: System) -> None:
    below.client.fork_session("book", "book.try", "start")
    assert below.shiori("tier-down", "book.try").exit_code == 0
    below.client.delete_session("book.try", later=True)
    below.redis.flushall()
    assert below.shiori("recover").exit_code == 0
    assert [session.session_id for session in below.client.list_sessions()] == ["book"]


def test_deleting_a_source_after_its_forks_takes_all_of_both(below: System) -> None:
    below.client.fork_session("book", "book.try", "start")
    below.read("book.try", "Another ending. " * 80)
    below.client.delete_session("book.try", later=True)
    assert below.client.delete_session("book") > 0
    assert not below.blocks() and not below.blocks_below()
    with pytest.raises(errors.NotFound):
        below.client.delete_session("book", later=True)
