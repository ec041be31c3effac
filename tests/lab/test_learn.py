"""The learning commands find what was planted."""

import random

import numpy as np
import pytest

from lab.eval.functions import INSTALLED
from lab.learn import answers, choosing, functions, summaries
from lab.learn.choosing import Asked, Weights
from lab.learn.functions import PACKAGES, Example, left_out, of_package
from lab.learn.words import learn_words
from services.agent.looks import PASSAGE_BUDGET, Proposal, whole
from services.agent.meaning import Meanings, table
from services.agent.quotes import quote
from services.agent.weighing import SEEN
from tests.agent.twin import book


def test_the_target_of_a_sentence_by_hand() -> None:
    made = summaries.target(["the cats sat", "dogs"], "a cat sat here")
    words, pairs = 2, 1  # of "a cat sat here", stemmed: cat, sat; cat sat
    assert made[0] == pytest.approx((words + 1.5 * pairs - 0.35 * 3) / 4)
    assert made[1] == pytest.approx(-0.35 / 4)


def test_chapters_weigh_the_same_and_the_planted_weights_come_back() -> None:
    rng = np.random.default_rng(0)
    planted = np.array([0.5, -0.3, 0.0])
    rows = [rng.normal(size=(size, 3)) for size in [5, 40] * 100]
    found = summaries.fitted([(x, x @ planted + rng.normal(size=len(x)) / 10) for x in rows])
    assert np.abs(found - planted).max() < 0.03


def examples() -> list[Example]:
    """The described one has the larger second number."""
    rng = np.random.default_rng(1)
    out = []
    for n in range(200):
        seen = rng.normal(size=(12, 3)).astype(np.float32)
        order = np.argsort(seen[:, 1])
        out.append(Example(PACKAGES[n % 10], seen[order], False, 0))
    return out


def test_weights_make_the_described_function_the_likeliest() -> None:
    weights = functions.fitted(examples(), [0, 1, 2])
    assert weights[1] > 10 * np.abs(weights[[0, 2]]).max()
    assert np.mean(left_out(examples(), [0, 1, 2])) < 0.1
    assert np.mean(left_out(examples(), [0, 2])) > 3


def test_what_is_measured_is_not_learned_from() -> None:
    assert not set(PACKAGES) & set(INSTALLED)
    with pytest.raises(ValueError, match="measured"):
        of_package(INSTALLED[0], 1, 1, table())


def test_an_example_has_the_described_one_last() -> None:
    made = of_package("pluggy", 5, 1, table())
    assert len(made) == 5 and all(len(e.seen) > 50 and e.bm25 >= 0 for e in made)
    assert sum(e.seen[-1, 0] > np.median(e.seen[:, 0]) for e in made) >= 3


def test_words_that_never_meet_letter_for_letter_come_near() -> None:
    pick = random.Random(0)
    says = {"persist": "save", "drop": "delete", "fetch": "load", "begin": "start"}
    pairs = []
    for _ in range(300):
        word = pick.choice(sorted(says))
        noise = [f"n{pick.randrange(20)}" for _ in range(3)]
        pairs.append(([word, f"n{pick.randrange(20)}"], [[says[word]], [], ["mod"], [], noise]))
    table = learn_words([pairs], epochs=8)
    near = Meanings(table, [[[word], [], [], [], []] for word in says.values()])
    assert [int(np.argmax(near.near([word]))) for word in says] == [0, 1, 2, 3]


def test_how_far_the_model_moves_the_odds() -> None:
    shares = np.log([0.5, 0.3, 0.2])
    assert functions.lift([(shares, 1, 1)] * 9 + [(shares, 2, 0)]) > 3
    assert functions.lift([(shares, 1, 0)] * 5 + [(shares, 2, 0)] * 5) == 0
    assert functions.lift([(shares, -1, 0)] * 5) == 0


def test_logistic_weights_that_were_planted_come_back() -> None:
    rng = np.random.default_rng(3)
    rows, planted = rng.normal(size=(20_000, 3)) * [1, 5, 1], np.array([1.0, -0.3, 0.0])
    chance = 1 / (1 + np.exp(-rows @ planted))
    drawn = (rng.random(len(rows)) < chance).astype(float)
    even = np.ones(len(rows))
    assert np.abs(choosing.logistic(rows, drawn, even) - planted).max() < 0.15  # the ridge pulls a little
    half = (np.arange(len(rows)) < 10_000).astype(float)  # rows that weigh nothing say nothing
    assert choosing.logistic(rows, np.where(half > 0, drawn, 1 - drawn), half)[0] > 0.8


TEXT = book(
    "The key hung on the seventh hook.\n\nThe lamp was lit at six, by hand, and put out at four.\n"
    + "\n" * PASSAGE_BUDGET
)


def put(question: str, answers: list[str], *said: tuple[str, str, float], on: str = "a") -> Asked:
    """Proposals as (kind, words, odds)."""
    at = lambda words: (TEXT.text.index(words), TEXT.text.index(words) + len(words))  # noqa: E731
    found = [Proposal(quote(TEXT, at(words)), kind, odds, [-0.1]) for kind, words, odds in said]  # type: ignore[arg-type]
    return Asked(on, choosing.ARTICLES, question, [TEXT], [whole(TEXT)], found, answers)


def weights(sure: float = float("inf"), **right: float) -> Weights:
    row = np.array([right.get(name, 0.0) for name in SEEN])
    return Weights({"right": row, "there": np.array([float(name == "odds") for name in SEEN])}, sure)


def test_a_walk_takes_the_best_of_all_looks_or_stops_where_it_is_sure() -> None:
    one = put(
        "When was the lamp lit?", ["six"], ("read", "hook", 1.0), ("first", "at six", 2.0), ("second", "four", 9.0)
    )
    whole_way = weights(support=4.0, odds=0.01).walk(one)
    assert (whole_way.said.quote.text, whole_way.looks, whole_way.there) == ("four", 3, 9.0)
    early = weights(support=4.0, odds=0.01, sure=3.0).walk(one)
    assert (early.said.quote.text, early.looks, early.there) == ("at six", 2, 2.0)
    assert early.score() == pytest.approx(2 / 3) and early.score(least=2.1) == 0.0
    assert weights(support=4.0).walk(one.unread).looks == 2 and not one.unread.was_read


def planted() -> list[Asked]:
    """The text's own vote tells which proposal is right, the odds whether there is an answer, neither always."""
    pick, found = random.Random(0), []
    for n in range(400):
        there = n % 2 == 0
        odds = pick.gauss(2.0 if there else -2.0, 1.5)
        said = [("read", "six", odds), ("first", "seventh hook", odds - 1)]
        found.append(put("At what hour was the lamp lit?", ["six"] if there else [], *said, on="abcd"[n // 2 % 4]))
    return found


def test_weights_that_are_learned_choose_and_refuse_at_even_odds() -> None:
    told = planted()
    made = choosing.learned(told)
    walked = [made.walk(one) for one in told]
    assert all(one.said.quote.text == "six" for one in walked)
    refused = np.array([one.there < 0 for one in walked])
    there = np.array([bool(one.asked.answers) for one in walked])
    assert refused[there].mean() < 0.2 and refused[~there].mean() > 0.8
    assert np.isfinite(made.sure)  # the first look tells as much as both


def test_paragraphs_are_scored_by_weights_of_the_others() -> None:
    told = planted()
    poisoned = [
        one if one.paragraph != "a" else put(one.question, ["seventh hook"], *said_of(one), on="a") for one in told
    ]
    made = {one.paragraph: weights for one, weights in choosing.left_out(poisoned)}
    (first, second) = poisoned[0].found
    assert made["a"].walk(poisoned[0]).said is first  # nobody told these that the hook is right
    assert not np.allclose(made["a"].weights["right"], made["b"].weights["right"]) and second.quote.text != "six"


def said_of(one: Asked) -> list[tuple[str, str, float]]:
    return [(p.kind, p.quote.text, p.odds) for p in one.found]


def test_every_paragraph_is_left_out_once_and_asked_for_then() -> None:
    rows = [{"context": f"p{n} lamp", "question": f"q{n} lamp", "answers": ["x"]} for n in range(7)]
    whole_text = answers.text("t", rows)
    parts = [whole_text.without(third) for third in range(answers.THIRDS)]
    assert sorted(row["question"] for _, asked in parts for row in asked) == [f"q{n} lamp" for n in range(7)]
    for left, asked in parts:
        assert left and not {row["context"] for row in asked} & set(left)
        assert left == [p for p in whole_text.paragraphs if p in left]  # in their order
    put = [
        (row["context"] == paragraph, there)
        for paragraph, rows in answers.alone(whole_text).items()
        for row, there in rows
    ]
    assert len(put) == 14 and all(own == there for own, there in put)
