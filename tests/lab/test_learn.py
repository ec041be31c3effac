"""The learning commands find what was planted."""

import random

import numpy as np
import pytest

from lab.eval.functions import INSTALLED
from lab.learn import functions, summaries
from lab.learn.functions import PACKAGES, Example, left_out, of_package
from lab.learn.words import learn_words
from services.agent.meaning import Meanings, table


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
