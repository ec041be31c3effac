"""Scores against cases worked out by hand, intervals against what they must cover."""

import json
import math

import numpy as np
import pytest

from lab.eval.items import Missing, squad_file
from lab.eval.run import graded, literal, merged
from lab.scoring import best, bootstrap, design_effect, exact, f1, gain, holds, mean, plain, wilson


def test_normalisation_is_squads() -> None:
    assert plain("The  Cat's, hat!") == ["cats", "hat"]
    assert plain("an apple a day") == ["apple", "day"]
    assert exact("the Beatles", "Beatles.") == 1.0
    assert exact("Beatle", "Beatles") == 0.0


def test_f1_counts_shared_words_once_each() -> None:
    assert f1("red red fox", "red fox fox") == pytest.approx(2 / 3)  # two shared of three and three
    assert f1("in Denver, Colorado", "Denver") == pytest.approx(2 * (1 / 3) / (1 / 3 + 1))
    assert f1("the", "a") == 1.0  # both empty after normalisation, as in SQuAD 2.0's script
    assert f1("", "Denver") == 0.0
    assert best(f1, "Denver", ["Boulder", "Denver Colorado", "Denver"]) == 1.0


def test_whole_words_hold() -> None:
    assert holds("exactly 31 grams.", "31") == 1.0
    assert holds("exactly 314 grams", "31") == 0.0
    assert holds("Old Badger, of course", "old badger") == 1.0
    assert holds("Badger Old", "Old Badger") == 0.0


def test_wilson_is_the_textbooks() -> None:
    low, high = wilson(81, 263)  # Newcombe 1998, table I, method 3
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = wilson(20, 20)
    assert 0.83 < low < 0.84 and high == 1.0


def test_the_bootstrap_is_near_the_normal_interval_of_many_values() -> None:
    values = np.random.default_rng(3).normal(5, 2, 400)
    low, high = bootstrap(values)
    spread = 1.96 * values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - spread, abs=0.05)
    assert high == pytest.approx(values.mean() + spread, abs=0.05)
    assert bootstrap(values) == (low, high)


def test_a_refusal_scores_nothing_and_is_counted() -> None:
    found = graded("x", [None, "", "two dogs"], [["a"], ["b"], ["dogs", "two dogs"]], "xyz")
    assert found["x.em"]["value"] == found["x.f1"]["value"] == pytest.approx(33.33)
    assert found["x.false_refusals"]["value"] == pytest.approx(33.33)
    assert found["x.em"]["n"] == 3


def test_differences_get_the_bootstraps_interval_also_when_all_are_zero_or_one() -> None:
    values = [0.0] * 14 + [1.0]
    assert gain(values)["ci95"][0] == 0.0 < mean(values)["ci95"][0]
    assert gain(values)["value"] == mean(values)["value"] == 6.67


def test_questions_of_one_text_widen_the_interval_as_far_as_they_agree() -> None:
    agreeing = [1.0] * 10 + [0.0] * 10  # two texts, all right and all wrong
    texts = [0] * 10 + [1] * 10
    assert design_effect(agreeing, texts) == pytest.approx(20)  # twenty answers tell what one would
    assert mean(agreeing, texts=texts)["ci95"] == [round(100 * edge, 2) for edge in wilson(0.5, 1)]
    assert design_effect([0.0, 1.0] * 10, texts) == 1.0
    assert mean([0.0, 1.0] * 10, texts=texts)["ci95"] == mean([0.0, 1.0] * 10)["ci95"]
    assert mean(agreeing, texts=texts)["texts"] == 2 and "texts" not in mean(agreeing)


def test_the_design_effect_is_one_and_the_number_within_a_text_times_their_correlation() -> None:
    pick, texts = np.random.default_rng(7), np.repeat(np.arange(3_000), 5)
    values = pick.normal(size=3_000)[texts] + np.sqrt(3) * pick.normal(size=15_000)  # correlation 1/4
    assert design_effect(values, texts.tolist()) == pytest.approx(1 + 4 / 4, rel=0.06)
    low, high = gain(values, 1_000, texts.tolist())["ci95"]
    alone = gain(values, 1_000)["ci95"]
    assert (high - low) / (alone[1] - alone[0]) == pytest.approx(math.sqrt(2), rel=0.03)
    assert gain([0.0] * 9 + [0.1], 1, [0] * 9 + [1])["ci95"][0] == 0.0  # a mean is never below its values


def test_no_values_are_no_mean() -> None:
    with pytest.raises(ValueError, match="nothing to count"):
        mean([])


def test_a_quote_is_literal_to_the_letter() -> None:
    assert literal([("a b", "x a b y"), ("a  b", "x a b y")])["value"] == 50.0


def test_figures_of_other_families_stay(tmp_path) -> None:
    path = tmp_path / "results" / "eval.json"
    merged(path, {"a": {"value": 1}, "b": {"value": 2}}, {"command": "one"})
    merged(path, {"b": {"value": 3}}, {"command": "two"})
    assert json.loads(path.read_text()) == {
        "a": {"value": 1, "command": "one"},
        "b": {"value": 3, "command": "two"},
    }
    assert [p.name for p in path.parent.iterdir()] == ["eval.json"]


def test_a_squad_file_of_ones_own(tmp_path) -> None:
    qas = [
        {"id": "1", "question": "Who?", "answers": [{"text": "Ann", "answer_start": 0}]},
        {"id": "2", "question": "Where?", "answers": [], "is_impossible": True},
    ]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"data": [{"title": "T", "paragraphs": [{"context": "Ann came.", "qas": qas}]}]}))
    rows = squad_file(path)
    assert [(r["question"], r["answers"], r["source"]) for r in rows] == [
        ("Who?", ["Ann"], "mine"),
        ("Where?", [], "mine"),
    ]
    path.write_text('{"rows": []}')
    with pytest.raises(Missing, match="SQuAD's format"):
        squad_file(path)
