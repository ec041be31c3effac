"""What is seen of a proposal, and what is chosen by it."""

import math
from collections.abc import Sequence

import pytest

from services.agent import weighing
from services.agent.looks import Kind, Proposal, at_passages, at_reading, passages, whole
from services.agent.model import listen
from services.agent.quotes import quote
from services.agent.types import Hit
from services.agent.weighing import SEEN, choose, seen
from tests.agent.twin import Twin, book
from tests.agent.weights import RIGHT, SURE, THERE

VIEW = book("The key hung on the seventh hook.\n\nThe lamp was lit at six.\n\nThe ledger was green.\n")
QUESTION = "On which hook hung the key?"
HITS = [whole(VIEW)]


def proposal(words: str, kind: Kind = "first", odds: float = 3.0, logprobs: Sequence[float] = (-0.1, -0.3)) -> Proposal:
    at = VIEW.text.index(words)
    return Proposal(quote(VIEW, (at, at + len(words))), kind, odds, logprobs)


def column(name: str, found: Sequence[Proposal], hits: Sequence[Hit] = HITS) -> list[float]:
    return seen(QUESTION, [VIEW], hits, found)[:, SEEN.index(name)].tolist()


def test_what_the_model_and_the_text_say_of_a_proposal() -> None:
    found = [proposal("seventh hook"), proposal("six", "read", -1.0)]
    assert column("certainty", found) == pytest.approx([-0.2, -0.2])
    assert column("odds", found) == [3.0, -1.0] and column("nearest", found) == [3.0, 3.0]
    assert column("read", found) == [0.0, 1.0] and column("one", found) == [1.0, 1.0]
    assert column("support", found) == [1.0, 0.0] and column("passage", found) == [1.0, 1.0]
    assert column("echo", found) == [0.5, 0.0]  # seventh; hook


def test_the_nearest_passage_is_the_looks_own_until_it_was_looked_at() -> None:
    assert column("nearest", [proposal("six", "read", -1.0)]) == [-1.0]


def test_a_passage_counts_by_its_score_and_what_is_in_none_not_at_all() -> None:
    first, second = (Hit(VIEW.blocks[n], VIEW.id, score) for n, score in ((0, 8.0), (1, 2.0)))
    found = [proposal("seventh hook"), proposal("six", "second"), proposal("green", "read")]
    assert column("rank", found, [first, second]) == [1.0, 0.25, 0.0]
    assert column("passage", found, [first, second]) == [1.0, 0.0, 0.0]


def test_looks_that_propose_the_same_agree_as_far_as_they_share_letters() -> None:
    found = [proposal("seventh hook"), proposal("seventh", "read"), proposal("six", "second"), proposal("hook", "read")]
    assert column("agreement", found) == pytest.approx([0.5, 0.5, 0.0, 0.5])  # with the first of the reading


def test_nothing_proposed_is_nothing_chosen() -> None:
    choice = choose(QUESTION, [VIEW], HITS, [])
    assert (list(choice.quotes), choice.sure, choice.there) == ([], False, False)


@pytest.mark.usefixtures("plainly")
def test_the_best_is_chosen_with_its_like_and_says_where_it_is_from() -> None:
    found = [proposal("six", "read"), proposal("green", "first"), proposal("seventh hook", "read")]
    choice = choose(QUESTION, [VIEW], HITS, found)
    assert [q.text for q in choice.quotes] == ["seventh hook"] and choice.origin == "read"
    assert choice.sure and choice.there
    beside = choose(QUESTION, [VIEW], HITS, [*found, proposal("The key", "read")])
    assert [q.text for q in beside.quotes] == ["seventh hook", "The key"]


@pytest.mark.usefixtures("plainly")
def test_sure_and_there_are_edges_of_two_sums() -> None:
    for odds in (-4.0, 0.0, 4.0):
        choice = choose(QUESTION, [VIEW], HITS, [proposal("seventh hook", odds=odds)])
        assert choice.there == (THERE["one"] + THERE["support"] + THERE["odds"] * odds >= 0)
        assert choice.sure == (choice.there and RIGHT["support"] + RIGHT["odds"] * odds >= SURE)


def test_the_learned_weights_name_what_is_seen() -> None:
    weighing.learned.cache_clear()
    made = weighing.learned()
    assert set(made["weights"]) == {"right", "there"} and math.isfinite(made["sure"]) and "command" in made
    assert all(len(weighing.weights(name)) == len(SEEN) for name in made["weights"])


def test_a_short_source_is_one_passage_and_an_empty_one_none() -> None:
    assert [hit.block.text for hit in passages([VIEW], QUESTION)] == [VIEW.text]
    assert at_passages([VIEW], QUESTION, []) == [] and at_reading([book("x", session=None)], QUESTION) == []
    two = [VIEW, book("The moon of Tarn is blue.", "doc_b")]
    assert {hit.source_id for hit in passages(two, "What hook? What moon?")} == {"doc_a", "doc_b"}


def test_how_likely_a_quote_was_is_told_with_its_tokens() -> None:
    twin = Twin(probability=0.8)
    said = listen(twin.say(["<|quote|>", " seventh", " hook", "<|/quote|>", "<|end|>"], first=0.9))
    assert said.odds == pytest.approx(math.log(0.9 / 0.1)) and said.logprobs == [pytest.approx([math.log(0.8)] * 3)]
    refused = listen(twin.say(["<|quote|>", "The", "<|/quote|>", "<|end|>"], first=0.2))
    assert refused.odds == pytest.approx(math.log(0.2 / 0.8))
