import numpy as np

from services.agent.carrying import MODEL, SEEN, carrying, seen, varied, weights
from services.agent.central import MOST, similarities

CHAPTER = [
    "Glaciers are rivers of ice that move slowly down a valley under their own weight.",
    "My aunt once dropped her hat on one of them and never saw it again that summer.",
    "A glacier carries stones and gravel and leaves them behind as a moraine.",
    "Lunch was served at noon in the hut beside the path up to the ridge.",
    "The moraine of a glacier shows how far the ice of the valley once reached.",
]


def test_a_weight_for_everything_that_is_seen():
    assert set(weights()) == {*SEEN, MODEL} and all(map(np.isfinite, weights().values()))
    assert weights()["central"] > 0


def test_what_is_seen_is_in_deviations_from_the_chapter():
    rows = seen(CHAPTER, "Glaciers", "Of moraines", similarities(CHAPTER))
    assert rows.shape == (5, len(SEEN)) and np.allclose(rows.mean(axis=0), 0)
    assert np.allclose(rows.std(axis=0), 1)
    title = rows[:, SEEN.index("title")]
    assert title[0] == title[2] == title[4] > title[1] == title[3]
    assert np.all(np.diff(rows[:, SEEN.index("place")]) > 0)


def test_a_title_that_no_sentence_has_tells_nothing():
    rows = seen(CHAPTER, "Chapter 3", "", similarities(CHAPTER))
    assert not rows[:, [SEEN.index("title"), SEEN.index("headings")]].any()


def test_the_chapters_matter_is_chosen_in_its_order():
    assert carrying(CHAPTER, "Glaciers", "", 3) == [0, 2, 4]


def test_nothing_is_said_twice():
    said = ["The ice of the glacier moves down the valley."] * 3 + ["A hut stands above it on the ridge."]
    assert len(carrying(said, "", "", 3)) == 2
    alike = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert varied(np.array([1.0, 0.9, 0.7]), alike, 2) == [0, 2]


def test_none_and_one_and_very_many():
    assert carrying([], "", "", 3) == []
    assert carrying(CHAPTER[:1], "", "", 3) == [0]
    many = [f"{sentence} {number}" for number in range(400) for sentence in CHAPTER]
    chosen = carrying(many, "", "", 3, voted=[MOST + 1])
    assert len(chosen) == 3 and chosen == sorted(chosen)
