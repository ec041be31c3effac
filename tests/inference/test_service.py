"""The RPCs, over real gRPC and a real Redis, with a tiny random model in this process."""

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services import errors
from services.inference.client import InferenceClient, special, text, tokens
from services.inference.server import InferenceServer, build_server
from services.inference.settings import InferenceSettings
from tests.inference.conftest import BOOK, wait_for
from tests.inference.helpers import QUESTION, ask, books_balance, forget, read


def test_describe_says_what_is_served(client: InferenceClient) -> None:
    told = client.describe()
    assert len(told.fingerprint) == 64
    assert (told.grid_tokens, told.page_tokens, told.slots_free) == (64, 256, told.slots_total)
    assert list(told.special_tokens)[2:9] == ["end", "doc", "file", "question", "answer", "quote", "/quote"]
    assert told.page_bytes == 256 * (24 + 8) * 4


def test_count_tokens(client: InferenceClient) -> None:
    assert client.count_tokens([special("doc"), tokens([20, 21])]) == 3
    assert client.count_tokens([text("line\n" * 120_000)]) > 120_000  # more than one message may carry


def test_open_is_idempotent_and_empty(client: InferenceClient) -> None:
    one, two = client.open_session("a"), client.open_session("a")
    assert one == two
    assert (one.head.position, one.head.digest) == (0, "00" * 32)


def test_a_reading_moves_the_head_and_names_it(client: InferenceClient, server: InferenceServer) -> None:
    opened = client.open_session("a")
    messages = list(client.read("a", [special("doc"), text(BOOK)], bookmark="one", expected_digest=opened.head.digest))
    assert messages[0].segment_tokens_total == messages[-1].segment_tokens_total
    assert [m.done for m in messages] == [False] * (len(messages) - 1) + [True]
    assert all(m.durable_position == 0 for m in messages[:-1])
    session = client.describe_session("a")
    assert messages[-1].head == session.head
    mark = session.bookmarks[0].head
    assert (mark.position, mark.digest) == (session.head.position, session.head.digest)
    assert session.head.position == messages[-1].durable_position == client.count_tokens([text(BOOK)]) + 1
    assert session.live and session.saved_bytes > 0 and session.segments == 1
    assert books_balance(server)


def test_generate_moves_nothing_and_is_repeatable(client: InferenceClient, server: InferenceServer) -> None:
    client.open_session("a")
    read(client, "a", BOOK)
    before = client.describe_session("a")
    one, two = ask(client, "a", logprobs=True), ask(client, "a", logprobs=True)
    assert one.ids == two.ids and one.logprobs == two.logprobs
    assert len(one.ids) == len(one.logprobs) == one.last.usage.completion_tokens
    assert one.last.usage.resumed_tokens == before.head.position
    assert client.describe_session("a") == before
    assert books_balance(server)


def test_a_kept_answer_is_what_reading_it_would_be(client: InferenceClient) -> None:
    for name in ("a", "b"):
        client.open_session(name)
        read(client, name, BOOK)
    said = ask(client, "a", keep=True, bookmark="turn 1")
    list(client.read("b", QUESTION))
    list(client.read("b", [tokens(said.ids)]))
    assert client.describe_session("a").head.digest == client.describe_session("b").head.digest
    assert client.describe_session("a").bookmarks[0].name == "turn 1"
    assert ask(client, "a").ids == ask(client, "b").ids


def test_a_scratch_session_needs_no_name(client: InferenceClient, server: InferenceServer) -> None:
    assert len(ask(client, "", max_tokens=5).ids) == 5
    assert client.list_sessions() == []
    assert books_balance(server)


def test_forced_tokens_open_the_answer(client: InferenceClient) -> None:
    said = ask(client, "", forced=[special("quote"), text("It was")], max_tokens=8)
    assert said.specials[0] == "quote"
    assert said.text.startswith("It was")
    assert len(said.ids) == 8


def test_stop_specials_end_the_answer(client: InferenceClient) -> None:
    names = client.describe().special_tokens
    for seed in range(20):  # hot enough to say specials now and then
        hot = {"temperature": 50.0, "seed": seed, "max_tokens": 30}
        free = ask(client, "", stop_specials=["pad"], **hot)
        found = [i for i in free.ids if 0 < i < 16]
        if found:
            break
    said = ask(client, "", stop_specials=[names[found[0]]], **hot)
    assert said.ids == free.ids[: free.ids.index(found[0]) + 1]
    assert said.specials[-1] == names[found[0]]
    assert said.last.finish_reason == 1


def test_the_text_ends_before_a_stop_string(client: InferenceClient) -> None:
    client.open_session("a")
    read(client, "a", BOOK)
    free = ask(client, "a", max_tokens=60, stop_specials=["pad"])
    stop = free.text[10:13]
    said = ask(client, "a", max_tokens=60, stop_specials=["pad"], stop=[stop], keep=True)
    assert said.text == free.text[: free.text.index(stop)]
    assert said.last.finish_reason == 1


def test_streamed_text_has_whole_characters_only(client: InferenceClient) -> None:
    for seed in range(3):
        chunks = list(client.generate("", QUESTION, temperature=3.0, seed=seed, max_tokens=60, stop_specials=["pad"]))
        ids = [i for chunk in chunks for i in chunk.token_ids]
        assert len(ids) == 60
        assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))


def test_score_is_the_sum_of_what_generate_reports(client: InferenceClient) -> None:
    client.open_session("a")
    read(client, "a", BOOK)
    said = ask(client, "a", max_tokens=10, logprobs=True, stop_specials=["pad"])
    scored = client.score("a", QUESTION, [tokens(said.ids)])
    assert scored.tokens == 10 and scored.greedy
    assert list(scored.token_logprobs) == pytest.approx(said.logprobs, abs=1e-3)
    assert scored.logprob == pytest.approx(sum(said.logprobs), abs=1e-2)
    assert not client.score("", [text("It was")], [text("漢字 thirteen")]).greedy
    assert client.score("", [text("It was")], [text("漢字")]).bytes == 6


def test_fork_and_rewind_stand_where_they_should(client: InferenceClient, server: InferenceServer) -> None:
    client.open_session("a")
    read(client, "a", BOOK, bookmark="one")
    first = ask(client, "a")
    read(client, "a", "And then the fox came.", bookmark="two")
    second = ask(client, "a")
    assert ask(client, "a").ids != first.ids or second.ids == first.ids
    client.fork_session("a", "b", bookmark="one")
    assert ask(client, "b").ids == first.ids
    client.fork_session("a", "c")
    read(client, "c", "Another end.")
    assert ask(client, "a").ids == second.ids
    assert client.rewind_session("a", "one").head.position == client.describe_session("b").head.position
    assert ask(client, "a").ids == first.ids
    assert client.rewind_session("a", "two").head.digest != client.describe_session("b").head.digest
    assert ask(client, "a").ids == second.ids
    assert books_balance(server)


def test_delete_leaves_forks_whole(client: InferenceClient, server: InferenceServer) -> None:
    client.open_session("a")
    read(client, "a", BOOK)
    client.fork_session("a", "b")
    said = ask(client, "a")
    client.delete_session("a")
    with pytest.raises(errors.NotFound):
        client.describe_session("a")
    assert ask(client, "b").ids == said.ids
    assert client.delete_session("b") > 0
    assert books_balance(server)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_another_tenants_session_is_not_found(client: InferenceClient, server: InferenceServer) -> None:
    client.open_session("a")
    read(client, "a", BOOK, bookmark="one")
    with InferenceClient(f"127.0.0.1:{server.port}", tenant="other") as other:
        other.open_session("mine")
        for attempt in (
            lambda: other.describe_session("a"),
            lambda: read(other, "a", "x"),
            lambda: ask(other, "a"),
            lambda: other.score("a", [text("x")], [text("y")]),
            lambda: other.fork_session("a", "stolen"),
            lambda: other.fork_session("a", "stolen", bookmark="one"),
            lambda: other.rewind_session("a", "one"),
            lambda: other.bookmark_session("a", "two"),
            lambda: other.delete_session("a"),
        ):
            with pytest.raises(errors.NotFound):
                attempt()
        assert [session.session_id for session in other.list_sessions()] == ["mine"]
    assert client.describe_session("a").head.position > 0


@pytest.mark.parametrize("name", ["", "a b", "a/b", "{x}", "a*", "é", "x" * 129])
def test_session_ids_are_checked(client: InferenceClient, name: str) -> None:
    with pytest.raises(errors.InvalidInput):
        client.open_session(name)


def test_bad_requests_are_refused_by_name(client: InferenceClient) -> None:
    client.open_session("a")
    with pytest.raises(errors.InvalidInput, match="at least one token"):
        read(client, "a", "")
    with pytest.raises(errors.InvalidInput, match="prompt is empty"):
        ask(client, "a", [])
    with pytest.raises(errors.InvalidInput, match="temperature"):
        ask(client, "a", temperature=-1.0)
    with pytest.raises(errors.InvalidInput, match="no special token"):
        ask(client, "a", [special("wizard")])
    with pytest.raises(errors.InvalidInput, match="keep needs"):
        ask(client, "", keep=True)
    with pytest.raises(errors.ContextLimit) as refused:
        read(client, "a", BOOK * 40)
    assert int(refused.value.extra["context_tokens"]) == client.describe().context_tokens


def test_expected_digest_and_bookmarks_are_checked_before_the_work(client: InferenceClient) -> None:
    client.open_session("a")
    done = read(client, "a", BOOK, bookmark="one")
    with pytest.raises(errors.HeadMoved) as moved:
        read(client, "a", "x", expected_digest="00" * 32)
    assert moved.value.extra["digest"] == done.head.digest
    with pytest.raises(errors.HeadMoved):
        ask(client, "a", expected_digest="00" * 32)
    with pytest.raises(errors.AlreadyExists):
        read(client, "a", "x", bookmark="one")
    assert client.describe_session("a").head == moved_on(client, done.head.position)


def moved_on(client: InferenceClient, position: int) -> Any:
    head = client.describe_session("a").head
    assert head.position == position
    return head


# --- cancel, deadline, room -------------------------------------------------------------------------------------------


@pytest.fixture
def slow(server: InferenceServer) -> list[int]:
    """Every engine step takes 30 ms longer. Grows by one each step."""
    engine = server.servicer.loaded.driver.engine  # type: ignore[union-attr]
    steps, step = [], engine.step

    def slowly() -> Any:
        time.sleep(0.03)
        steps.append(1)
        return step()

    engine.step = slowly  # type: ignore[method-assign]
    return steps


def test_a_dropped_read_stops_within_a_step_and_leaves_the_last_segment(
    client: InferenceClient, server: InferenceServer, slow: list[int]
) -> None:
    client.open_session("a")
    before = read(client, "a", BOOK, bookmark="one")
    said = ask(client, "a", max_tokens=4)
    stream = client.read("a", [text(BOOK * 5)], bookmark="two")
    next(stream), next(stream)
    stream.close()
    count = len(slow)
    wait_for(lambda: books_balance(server))
    assert len(slow) - count <= 3
    session = client.describe_session("a")
    assert session.head.digest == before.head.digest
    assert [mark.name for mark in session.bookmarks] == ["one"]
    assert ask(client, "a", max_tokens=4).ids == said.ids


def test_a_dropped_answer_stops_and_leaves_the_session(
    client: InferenceClient, server: InferenceServer, slow: list[int]
) -> None:
    client.open_session("a")
    before = read(client, "a", BOOK)
    with closing(client.generate("a", QUESTION, max_tokens=500, keep=True, stop_specials=["pad"])) as stream:
        next(stream), next(stream)
    count = len(slow)
    wait_for(lambda: books_balance(server))
    assert len(slow) - count <= 3
    assert client.describe_session("a").head.digest == before.head.digest
    read(client, "a", "The lock is free again.")


def test_a_deadline_is_kept_within_a_step(client: InferenceClient, server: InferenceServer, slow: list[int]) -> None:
    client.open_session("a")
    with pytest.raises(errors.DeadlineExceeded):
        read(client, "a", BOOK * 5, timeout=0.3)
    count = len(slow)
    wait_for(lambda: books_balance(server))
    assert len(slow) - count <= 3
    assert client.describe_session("a").head.position == 0


def test_a_session_has_one_writer(client: InferenceClient, slow: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.inference.readings._PATIENCE_S", 0.05)
    client.open_session("a")
    read(client, "a", BOOK, bookmark="one")
    with closing(client.read("a", [text(BOOK * 5)])) as stream:
        next(stream)
        for attempt in (
            lambda: read(client, "a", "x"),
            lambda: ask(client, "a", keep=True),
            lambda: client.rewind_session("a", "one"),
        ):
            with pytest.raises(errors.Conflict) as busy:
                attempt()
            assert (busy.value.code, busy.value.extra["reason"]) == ("session_busy", "SESSION_BUSY")
        assert ask(client, "a", max_tokens=2).ids  # readers may


def test_a_writer_on_another_replica_is_fenced(make_server: Callable[..., InferenceServer]) -> None:
    """Both read the same session; the one that began first finds its epoch lower."""
    one, two = (InferenceClient(f"127.0.0.1:{make_server().port}") for _ in range(2))
    one.open_session("a")
    read(one, "a", BOOK)
    slow = one.read("a", [text(BOOK * 5)])
    next(slow)
    read(two, "a", "I was faster.")
    with pytest.raises(errors.HeadMoved, match="another writer"):
        list(slow)
    assert ask(two, "a").ids == ask(one, "a").ids


def test_a_full_engine_says_when_to_come_again(make_server: Callable[..., InferenceServer]) -> None:
    server = make_server(slots=3, tokens=8192)
    with InferenceClient(f"127.0.0.1:{server.port}") as client:
        for name in "ab":
            client.open_session(name)
            read(client, name, BOOK[:2000])
        with (
            closing(client.generate("a", QUESTION, max_tokens=2000, stop_specials=["pad"])) as stream,
            pytest.raises(errors.EngineFull) as full,
        ):
            next(stream)
            ask(client, "b", max_tokens=2000)
        assert full.value.retry_after == 1.0
        assert {"slots_free", "pages_free"} <= full.value.extra.keys()
        wait_for(lambda: books_balance(server))
        assert ask(client, "b").ids


def test_live_readings_give_way_and_come_back(make_server: Callable[..., InferenceServer]) -> None:
    server = make_server(slots=4)
    with InferenceClient(f"127.0.0.1:{server.port}") as client:
        said = {}
        for n in range(6):
            client.open_session(f"s{n}")
            read(client, f"s{n}", f"Chapter {n}. {BOOK[: 200 * (n + 1)]}")
            said[n] = ask(client, f"s{n}").ids
        for n in range(6):
            again = ask(client, f"s{n}")
            assert again.ids == said[n]
        assert sum(session.live for session in client.list_sessions()) < 6
        assert books_balance(server)


# --- the process ------------------------------------------------------------------------------------------------------


def health(port: int, service: str = "") -> int:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status


def test_health_says_serving_only_while_it_serves(model_dir: Any, redis_url: str) -> None:
    settings = InferenceSettings("127.0.0.1:0", model_dir, redis_url, tokens=4096, threads=1, sweep_s=0)
    server, port = build_server(settings)
    server.listen()
    assert health(port) == 2  # NOT_SERVING: bound, but the model is not loaded
    with InferenceClient(f"127.0.0.1:{port}", timeout=0.5) as client, pytest.raises(errors.ShioriError):
        client.describe()
    server.load()
    assert health(port) == health(port, "shiori.inference.v1.Inference") == 1
    server._health.enter_graceful_shutdown()
    assert health(port) == 2
    server.stop(0)


def test_reflection_is_off_unless_asked_for(make_server: Callable[..., InferenceServer]) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    def services(server: InferenceServer) -> list[Any]:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            return list(stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")])))

    with pytest.raises(grpc.RpcError) as refused:
        services(make_server())
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert services(make_server(reflection=True))


def test_stopping_ends_running_calls(make_server: Callable[..., InferenceServer]) -> None:
    server = make_server()
    with InferenceClient(f"127.0.0.1:{server.port}") as client:
        client.open_session("a")
        stream = client.read("a", [text(BOOK * 20)])
        next(stream)
        server.stop(grace_s=0.05)
        with pytest.raises((errors.EngineUnavailable, errors.Cancelled)):
            list(stream)


def test_a_vault_that_is_away_is_unavailable(make_server: Callable[..., InferenceServer], model_dir: Any) -> None:
    server = make_server(redis_url="redis://127.0.0.1:1/0")
    with InferenceClient(f"127.0.0.1:{server.port}", timeout=1) as client, pytest.raises(errors.ShioriError) as away:
        client.open_session("a")
    assert away.value.grpc_code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")


def test_forget_makes_the_next_call_restore(client: InferenceClient, server: InferenceServer) -> None:
    client.open_session("a")
    read(client, "a", BOOK)
    said = ask(client, "a")
    assert said.last.usage.restore_ms == 0
    forget(server)
    again = ask(client, "a")
    assert again.last.usage.restore_ms > 0
    assert again.ids == said.ids
