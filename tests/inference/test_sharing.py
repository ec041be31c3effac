"""What is saved within a segment, what is taken over from other readings, and going back to any token."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from services import errors
from services.inference.client import InferenceClient, text, tokens
from services.inference.server import InferenceServer
from services.vault.store import block_key
from tests.inference.conftest import BOOK, ServerProcess
from tests.inference.helpers import ask, books_balance, forget_all, read

LONG = BOOK * 2


@pytest.fixture
def server(make_server: Callable[..., InferenceServer]) -> InferenceServer:
    """A rung at every step."""
    return make_server(rung_s=0)


def answers(client: InferenceClient, words: list[str]) -> tuple[str, list[int]]:
    """Digest and greedy tokens of a reading that nothing disturbs, made under a tenant of its own."""
    client.open_session("control")
    for part in words:
        last = read(client, "control", part)
    said = ask(client, "control").ids
    client.delete_session("control")
    return last.head.digest, said


@pytest.fixture
def control(make_server: Callable[..., InferenceServer]) -> Any:
    server = make_server(rung_s=1000)
    with InferenceClient(f"127.0.0.1:{server.port}", tenant="control") as client:
        yield lambda words: answers(client, words)


def test_the_watermark_moves_within_a_segment(client: InferenceClient) -> None:
    client.open_session("a")
    messages = list(client.read("a", [text(LONG)]))
    marks = [m.durable_position for m in messages]
    assert marks == sorted(marks) and any(0 < mark < messages[-1].position for mark in marks)
    assert all(m.durable_position <= m.position for m in messages)


def test_a_reading_that_broke_off_goes_on_from_its_watermark(
    start_process: Callable[[], ServerProcess],
    client: InferenceClient,
    server: InferenceServer,
    control: Any,
) -> None:
    """Dropped in the middle, its engine's memory lost: another call reads only what is missing, to the same bits."""
    client.open_session("a")
    told = 0
    with client.read("a", [text(LONG)]) as stream:
        for message in stream:
            told = message.durable_position
            if told > 300:
                break
    assert client.describe_session("a").head.position == 0
    forget_all(server)
    first, *_, last = list(client.read("a", [text(LONG)]))
    assert first.position >= told and last.usage.shared_tokens >= told
    assert (last.head.digest, ask(client, "a").ids) == control([LONG])
    assert books_balance(server)


def test_the_same_text_is_read_once_by_a_tenant(client: InferenceClient, server: InferenceServer) -> None:
    client.open_session("a")
    one = read(client, "a", LONG, segment="x")
    forget_all(server)
    client.open_session("b")
    two = read(client, "b", LONG, segment="another label")
    assert two.usage.shared_tokens == two.position == one.position
    assert two.head.digest == one.head.digest
    assert ask(client, "b").ids == ask(client, "a").ids
    client.delete_session("a")
    forget_all(server)
    assert not ask(client, "b").last.usage.recomputed


def test_nothing_is_shared_between_tenants(client: InferenceClient, server: InferenceServer) -> None:
    client.open_session("a")
    read(client, "a", LONG)
    with InferenceClient(f"127.0.0.1:{server.port}", tenant="other") as other:
        other.open_session("a")
        assert other.plan("", [[text(LONG)]]).known_tokens == 0
        assert read(other, "a", LONG).usage.shared_tokens == 0


def test_a_changed_tail_is_read_from_the_last_rung_before_it(client: InferenceClient, control: Any) -> None:
    """The plan says so before; the usage says so after; the bits are those of reading it all."""
    client.open_session("a")
    total = read(client, "a", LONG, bookmark="whole").position
    changed = LONG[:-200] + "and now something else entirely, to the end."
    plan = client.plan("", [[text(changed)]])
    assert 0 < plan.known_tokens < plan.tokens and plan.known_tokens > total - 200
    assert plan.from_session == ""  # nobody stands within the only segment
    client.open_session("b")
    last = read(client, "b", changed)
    assert last.usage.shared_tokens == plan.known_tokens
    assert last.usage.read_tokens == plan.tokens - plan.known_tokens
    assert (last.head.digest, ask(client, "b").ids) == control([changed])


def test_a_long_reading_is_known_segment_by_segment(
    client: InferenceClient, server: InferenceServer, control: Any
) -> None:
    """Most rungs of many segments are thinned; every segment that was read is known all the same."""
    chapters = [f"Chapter {n}. " + BOOK[n : n + 150] for n in range(40)]
    for session in ("a", "b"):
        forget_all(server)  # what is live is computed on, if it is short
        client.open_session(session)
        usage = [read(client, session, chapter).usage for chapter in chapters]
    assert sum(u.read_tokens for u in usage) == 0
    plan = client.plan("", [[text(chapter)] for chapter in [*chapters, "One more."]])
    assert plan.known_segments == 40
    last = read(client, "b", "One more.")
    assert (last.head.digest, ask(client, "b").ids) == control([*chapters, "One more."])


def test_a_rung_is_set_where_readings_part(make_server: Callable[..., InferenceServer], control: Any) -> None:
    """The first that leaves a known reading pays for the way to the fork; whoever comes after goes on from there."""
    server = make_server(rung_s=1000)
    with InferenceClient(f"127.0.0.1:{server.port}") as client:
        texts = [LONG[:-300] + f"Ending number {n}, which is unlike the others in every way." for n in range(3)]
        usage = []
        for n, words in enumerate(texts):
            client.open_session(f"s{n}")
            usage.append(read(client, f"s{n}", words).usage)
        assert [u.shared_tokens for u in usage[:2]] == [0, 0]
        assert usage[2].shared_tokens > 0.8 * usage[2].prompt_tokens
        assert (client.describe_session("s2").head.digest, ask(client, "s2").ids) == control([texts[2]])


def test_a_plan_names_the_oldest_reading_whatever_state_others_are_in(
    client: InferenceClient, store: redis.Redis
) -> None:
    for session in ("older", "newer"):
        client.open_session(session)
        read(client, session, LONG, bookmark="whole")
    client.open_session("damaged")
    read(client, "damaged", "Another text.", bookmark="mark")
    store.hset("shiori:{default}:marks:damaged", "mark", "{")
    plan = client.plan("", [[text(LONG)], [text("One more.")]])
    assert (plan.from_session, plan.from_bookmark) == ("older", "whole")


def test_an_added_chapter_costs_itself(client: InferenceClient, control: Any) -> None:
    chapters = [BOOK[:1500], "Chapter two. " + BOOK[300:1800], "Chapter three, which is new. " + BOOK[:500]]
    client.open_session("a")
    for n, chapter in enumerate(chapters[:2]):
        read(client, "a", chapter, bookmark=f"c{n}")
    plan = client.plan("", [[text(chapter)] for chapter in chapters])
    assert (plan.known_segments, plan.from_session, plan.from_bookmark) == (2, "a", "c1")
    within = client.plan("", [[text(chapters[0])], [text(chapters[1][:-200] + "Another end.")]])
    assert within.known_segments == 1 and within.known_tokens > client.plan("", [[text(chapters[0])]]).known_tokens
    assert (within.from_session, within.from_bookmark) == ("a", "c0")
    client.open_session("b")
    usage = [read(client, "b", chapter).usage for chapter in chapters]
    assert [u.read_tokens for u in usage[:2]] == [0, 0]
    assert usage[2].read_tokens == plan.tokens - plan.known_tokens
    assert (client.describe_session("b").head.digest, ask(client, "b").ids) == control(chapters)


@pytest.mark.parametrize("position", [0, 1, 63, 64, 65, 700, -1])
def test_rewind_to_any_token(client: InferenceClient, server: InferenceServer, control: Any, position: int) -> None:
    """What stands there is what reading just so much gives."""
    client.open_session("a")
    total = read(client, "a", LONG).position
    at = position % total if position < 0 else position
    session = client.rewind_session("a", position=at)
    assert session.head.position == at
    forget_all(server)
    assert client.describe_session("a").head.digest == session.head.digest
    service = server.servicer.loaded
    ids = service.tokenizer.encode(LONG)  # type: ignore[union-attr]
    said = ask(client, "a").ids
    with InferenceClient(f"127.0.0.1:{server.port}", tenant="fresh") as fresh:
        fresh.open_session("b")
        if at:
            list(fresh.read("b", [tokens(ids[:at])]))
        assert fresh.describe_session("b").head.digest == session.head.digest
        assert ask(fresh, "b").ids == said
    with pytest.raises(errors.InvalidInput):
        client.rewind_session("a", position=total + 1)


@pytest.fixture
def between_rungs(client: InferenceClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Session a stands at token 77, where no rung is; one is stored however little there is to read again."""
    monkeypatch.setattr("services.inference.taking._WORTH_S", 0.0)
    client.open_session("a")
    read(client, "a", LONG)
    client.rewind_session("a", position=77)


@pytest.mark.usefixtures("between_rungs")
def test_a_place_without_a_rung_gets_one_when_it_is_taken_up(client: InferenceClient, server: InferenceServer) -> None:
    """What lies behind the last rung is read again once, not at every resume."""
    answers = []
    for _ in range(2):
        forget_all(server)
        answers.append(ask(client, "a"))
    first, second = (a.last.usage.resumed_tokens for a in answers)
    assert first < 77 == second
    assert answers[0].ids == answers[1].ids
    assert read(client, "a", "And on.").position > 77


@pytest.mark.usefixtures("between_rungs")
def test_a_writer_is_not_overtaken_by_who_takes_its_session_up(
    client: InferenceClient, server: InferenceServer
) -> None:
    """Storing a rung moves the head to another manifest: not while somebody writes behind it."""
    forget_all(server)
    readings = server.servicer.loaded.readings  # type: ignore[union-attr]
    with readings.writing("default", "a"):
        before = readings.head("default", "a").view.manifest
        assert ask(client, "a").ids
        assert readings.head("default", "a").view.manifest == before


@pytest.mark.parametrize("kind", ["log", "snapshot"])
def test_a_known_reading_that_is_damaged_does_not_stop_another(
    client: InferenceClient, server: InferenceServer, store: redis.Redis, control: Any, kind: str
) -> None:
    client.open_session("a")
    read(client, "a", LONG)
    vault = server.servicer.loaded.vault  # type: ignore[union-attr]
    manifest = vault.manifest("default", vault.head("default", "a").view.manifest)
    lost = [ref for ref in manifest.refs() if ref.kind == kind]
    forget_all(server)
    assert store.delete(*(block_key("default", ref.name) for ref in lost)) == len(lost)
    changed = LONG[:-200] + "and now something else entirely, to the end."
    client.open_session("b")
    last = read(client, "b", changed)
    assert (last.head.digest, ask(client, "b").ids) == control([changed])


def test_what_a_rewind_left_can_be_returned_to(client: InferenceClient, server: InferenceServer) -> None:
    client.open_session("a")
    whole = read(client, "a", LONG).head
    said = ask(client, "a").ids
    client.rewind_session("a", position=100)
    read(client, "a", "Another branch.")
    service = server.servicer.loaded
    service.keeper.collect("default")  # type: ignore[union-attr]
    forget_all(server)
    assert client.rewind_session("a", digest=whole.digest).head.digest == whole.digest
    assert ask(client, "a").ids == said
    with pytest.raises(errors.NotFound):
        client.rewind_session("a", digest="ab" * 32)


def test_a_fork_is_one_key(client: InferenceClient, store: redis.Redis) -> None:
    client.open_session("a")
    read(client, "a", LONG, bookmark="here")
    before = set(store.scan_iter())
    client.fork_session("a", "b", bookmark="here")
    assert set(store.scan_iter()) - before == {b"shiori:{default}:head:b"}


# --- tiers and limits -------------------------------------------------------------------------------------------------


def test_a_session_in_the_cold_tier_only_resumes(
    client: InferenceClient, server: InferenceServer, store: redis.Redis
) -> None:
    client.open_session("a")
    read(client, "a", LONG, bookmark="here")
    said = ask(client, "a").ids
    sessions, size = server.servicer.loaded.keeper.tier_down("default", "a")  # type: ignore[union-attr]
    assert sessions == 1 and size > 0
    assert not list(store.scan_iter("*:blk:*")) and not list(store.scan_iter("*:man:*"))
    forget_all(server)
    again = ask(client, "a")
    assert again.ids == said and not again.last.usage.recomputed
    assert list(store.scan_iter("*:blk:*"))  # it is in use: back in Redis
    client.fork_session("a", "b", bookmark="here")
    read(client, "b", "And on it goes.")


def test_redis_may_be_lost_altogether(client: InferenceClient, server: InferenceServer, store: redis.Redis) -> None:
    """Once it is in the cold tier, nothing of Redis is needed: not even to know that the session exists."""
    client.open_session("a")
    head = read(client, "a", LONG, bookmark="here").head
    said = ask(client, "a").ids
    server.servicer.loaded.keeper.tier_down("default")  # type: ignore[union-attr]
    store.flushall()
    forget_all(server)
    assert client.describe_session("a").head.digest == head.digest
    again = ask(client, "a")
    assert again.ids == said and not again.last.usage.recomputed
    assert client.rewind_session("a", "here").head.digest == head.digest


def test_a_full_redis_moves_idle_readings_down_before_it_refuses(
    make_server: Callable[..., InferenceServer], store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.vault.keeper._IN_USE_MS", -1)
    base = store.info("memory")["used_memory"] // 2**20 + 1
    server = make_server(max_mb=base + 1, high_water=1.0)
    keeper = server.servicer.loaded.keeper  # type: ignore[union-attr]
    with InferenceClient(f"127.0.0.1:{server.port}") as client:
        for n in range(12):
            keeper._memory = (0.0, 0, 0)
            client.open_session(f"s{n}")
            read(client, f"s{n}", f"Book {n}. " + LONG)
        assert sum(keeper.vault.heads.raw("default", f"s{n}").get("cold") == "1" for n in range(12)) > 0
        for n in range(12):
            assert ask(client, f"s{n}", max_tokens=4).ids


def test_a_quota_is_kept_and_says_its_numbers(make_server: Callable[..., InferenceServer]) -> None:
    server = make_server(quota_mb="default:1,other:100")
    with InferenceClient(f"127.0.0.1:{server.port}") as client:
        with pytest.raises(errors.VaultFull) as full:
            for n in range(40):
                client.open_session(f"s{n}")
                read(client, f"s{n}", f"Book {n}. " + LONG, segment=str(n))
        assert full.value.code == "quota_exceeded" and int(full.value.extra["quota"]) == 2**20
        assert ask(client, "s0", max_tokens=4).ids  # what is there stays usable
        client.delete_session("s0")
        client.delete_session("s1")
        client.open_session("after")
        read(client, "after", "Short.")
