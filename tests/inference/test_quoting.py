"""Quotes held to a source, over gRPC: literal, with their places, and refused where nothing can be quoted."""

from typing import Any

import pytest

from services import errors
from services.inference.client import InferenceClient, special, text, tokens
from services.inference.pb import inference_pb2 as pb
from services.inference.server import InferenceServer
from tests.inference.conftest import BOOK
from tests.inference.helpers import QUESTION, ask, books_balance

OTHER = "Über dem Hafen stand 月, and 🦊 slept; nobody knew of the clocks. " * 3
HOT = {"temperature": 9.0, "max_tokens": 20, "forced": [special("quote")], "stop_specials": ["pad"]}


def reading(client: InferenceClient, name: str = "a") -> None:
    """Two segments of a source."""
    client.open_session(name)
    list(client.read(name, [special("doc"), text(BOOK)], segment="1/2"))
    list(client.read(name, [special("file"), text(OTHER)], segment="2/2"))


def quotes(
    client: InferenceClient, copy: pb.Copy, session: str = "a", prompt: Any = QUESTION, **more: Any
) -> list[pb.Quote]:
    return list(ask(client, session, prompt, **(HOT | {"copy": copy} | more)).last.quotes)


def hot_quotes(client: InferenceClient, copy: pb.Copy, **more: Any) -> list[pb.Quote]:
    return [q for seed in range(8) for q in quotes(client, copy, seed=seed, **more)]


def test_every_quote_is_literal_and_every_place_is_right(client: InferenceClient, server: InferenceServer) -> None:
    """Random weights at a high temperature: only the constraint makes these literal, whole characters included."""
    reading(client)
    texts, ends = {0: BOOK, 1: OTHER}, client.describe_session("a").head.position
    found = hot_quotes(client, pb.Copy(session=True, max_tokens=8))
    assert len(found) >= 8 and {True} <= {q.closed for q in found}
    for quote in found:
        assert quote.text in BOOK or quote.text in OTHER
        assert quote.count >= len(quote.occurrences) > 0
        for place in quote.occurrences:
            assert texts[place.number][place.start : place.end] == quote.text and not place.prompt
            assert 0 < place.position < ends
    assert any(not quote.text.isascii() for quote in found)
    assert books_balance(server)


def test_occurrences_are_all_there_is(client: InferenceClient) -> None:
    reading(client)
    said = [special("quote"), text(" the clocks"), special("/quote")]
    (quote, *_) = quotes(client, pb.Copy(session=True), forced=said)
    assert (quote.text, quote.closed, quote.count) == (" the clocks", True, 43)
    assert [p.number for p in quote.occurrences] == [0] * 40 + [1] * 3
    whole = [client.count_tokens([special("doc"), text(BOOK[: p.start])]) for p in quote.occurrences[:3]]
    assert whole == [p.position for p in quote.occurrences[:3]]


def test_nearest_to_the_evidence_comes_first(client: InferenceClient) -> None:
    reading(client)
    said, at = [special("quote"), text(" the clocks"), special("/quote")], OTHER.rindex(" the clocks")
    near = [pb.Stretch(number=1, start=at - 5, end=at + 3)]
    (quote, *_) = quotes(client, pb.Copy(session=True, near=near), forced=said)
    assert (quote.occurrences[0].number, quote.occurrences[0].start) == (1, at)
    gaps = [at - p.start for p in quote.occurrences if p.number == 1]
    assert gaps == sorted(gaps) and quote.count == 43


def test_parts_of_the_prompt_come_before_the_session(client: InferenceClient) -> None:
    reading(client)
    prompt = [special("question"), text("Which?"), special("doc"), text("Only the clocks."), special("answer")]
    said = [special("quote"), text(" the clocks"), special("/quote")]
    (quote, *_) = quotes(client, pb.Copy(session=True, parts=[3]), prompt=prompt, forced=said)
    first = quote.occurrences[0]
    assert (first.prompt, first.number, first.start, first.end, quote.count) == (True, 3, 4, 15, 44)
    assert first.position == client.count_tokens([text("Only")])
    for quote in hot_quotes(client, pb.Copy(parts=[3]), prompt=prompt, session=""):
        assert quote.text in "Only the clocks." and all(place.prompt for place in quote.occurrences)


def test_a_quote_crosses_no_seam(client: InferenceClient) -> None:
    client.open_session("a")
    list(client.read("a", [text("abc")], segment="1/2"))
    list(client.read("a", [text("def"), special("file"), text("ghi")], segment="2/2"))
    found = hot_quotes(client, pb.Copy(session=True))
    assert found and all(q.text in "abc" or q.text in "def" or q.text in "ghi" for q in found)
    with pytest.raises(errors.InvalidInput, match="does not stand in the source"):
        quotes(client, pb.Copy(session=True), forced=[special("quote"), text("bc"), text("de")])


def test_what_was_said_in_the_session_is_no_source(client: InferenceClient) -> None:
    reading(client)
    turn = [special("question"), text("zzz yyy"), special("answer"), special("quote"), text("xxx"), special("/quote")]
    list(client.read("a", turn, segment="turn"))
    ask(client, "a", [special("question"), text("www vvv"), special("answer")], keep=True)
    copy = pb.Copy(session=True)
    for words in ("zzz", "xxx", "www"):
        with pytest.raises(errors.InvalidInput, match="does not stand"):
            quotes(client, copy, forced=[special("quote"), text(words)])
    list(client.read("a", [text("uuu ttt")], segment="3/3"))
    (quote, *_) = quotes(client, copy, forced=[special("quote"), text("uuu"), special("/quote")])
    assert [(p.number, p.start) for p in quote.occurrences] == [(5, 0)]


def test_an_index_is_kept_over_turns_and_forks_and_goes_with_its_session(
    client: InferenceClient, server: InferenceServer
) -> None:
    service, copy = server.servicer.loaded, pb.Copy(session=True)
    assert service is not None
    kept = service.sources._kept
    reading(client)
    before = quotes(client, copy, seed=3)
    indexes = list(kept.values())
    list(client.read("a", [special("question"), text("zzz")], segment="turn"))
    client.fork_session("a", "b")
    service.sources.forget("another tenant")
    quotes(client, copy, "b")
    client.rewind_session("a", position=client.describe_session("a").head.position - 2)
    quotes(client, copy)
    assert client.describe_session("a").head != client.describe_session("b").head
    assert len(indexes) == 1 and list(kept.values()) == indexes
    client.delete_session("a")
    assert not kept
    reading(client, "c")
    assert quotes(client, copy, "c", seed=3) == before


def test_outside_of_quotes_nothing_changes(client: InferenceClient) -> None:
    reading(client)
    options = {"temperature": 1.0, "seed": 3, "logprobs": True, "stop_specials": ["pad"]}
    free = ask(client, "a", **options)
    assert "quote" not in free.specials
    held = ask(client, "a", copy=pb.Copy(session=True), **options)
    assert (held.ids, held.logprobs, list(held.last.quotes)) == (free.ids, free.logprobs, [])


def test_an_answer_that_ends_within_a_quote_says_so(client: InferenceClient) -> None:
    reading(client)
    (quote,) = quotes(client, pb.Copy(session=True), max_tokens=2)
    assert not quote.closed and len(quote.token_ids) == 1 and quote.count >= 1


def test_other_marks_than_the_specials(client: InferenceClient) -> None:
    """For tokenizers that have none: any text that is one token."""
    reading(client)
    said = [text("<"), text(" was"), text(">")]
    (quote, *_) = quotes(client, pb.Copy(session=True, open="<", close=">"), forced=said, max_tokens=8)
    assert (quote.text, quote.closed, quote.count) == (" was", True, 40)


@pytest.mark.parametrize(
    ("copy", "session", "why"),
    [
        (pb.Copy(parts=[7]), "a", "copy.parts: 7; the prompt has 3 parts"),
        (pb.Copy(parts=[0]), "a", "copy.parts: 0 is the special token 'question'"),
        (pb.Copy(session=True, open="end", close="end"), "a", "opens and closes with the same"),
        (pb.Copy(session=True, open="no such"), "a", "no special token 'no such'"),
        (pb.Copy(session=True, max_tokens=501), "a", "a quote of 501 ids"),
        (pb.Copy(session=True), "", "copy.session needs a session_id"),
        (pb.Copy(session=True), "empty", "nothing to copy from"),
        (pb.Copy(), "a", "nothing to copy from"),
        (pb.Copy(session=True, near=[pb.Stretch(number=2)]), "a", "segment 2 is none that may be quoted"),
        (pb.Copy(session=True, near=[pb.Stretch(prompt=True)]), "a", "copy.near: a stretch of what may not be"),
    ],
)
def test_what_cannot_be_quoted_is_named(
    client: InferenceClient, server: InferenceServer, copy: pb.Copy, session: str, why: str
) -> None:
    reading(client)
    client.open_session("empty")
    before = client.describe_session("a")
    with pytest.raises(errors.InvalidInput, match=why):
        quotes(client, copy, session)
    assert client.describe_session("a") == before and books_balance(server)


def test_a_token_that_is_half_a_character_is_neither_first_nor_last(client: InferenceClient) -> None:
    """漢字 is not in the vocabulary as a whole: its bytes are tokens of their own."""
    pieces = "月火水木金土日"
    client.open_session("a")
    list(client.read("a", [text(pieces * 5)], segment="1/1"))
    assert client.count_tokens([text(pieces)]) > len(pieces)
    for limit in (1, 2, 3):
        for quote in hot_quotes(client, pb.Copy(session=True, max_tokens=limit), max_tokens=60):
            assert quote.text in pieces * 5 or not quote.closed
            assert not quote.closed or "\ufffd" not in quote.text


def test_tokens_given_as_ids_can_be_quoted(client: InferenceClient) -> None:
    found = hot_quotes(client, pb.Copy(parts=[0]), session="", prompt=[tokens([40, 41, 42])])
    assert found and all(set(q.token_ids) <= {40, 41, 42} for q in found)
