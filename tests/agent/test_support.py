"""The share of a question that stands in a sentence."""

from services.agent.support import support
from tests.agent.twin import book

VIEW = book("The key hung on the seventh hook.\n\nThe lamp was lit.\n\nThe lamp was put out.\n")


def test_all_of_the_question_or_nothing_of_it():
    assert support("Where hung the key?", "The key hung on the seventh hook.", [VIEW]) == 1.0
    assert support("Where hung the key?", "It rained.", [VIEW]) == 0.0


def test_a_rare_word_weighs_more_than_a_common_one():
    rare, common = (support("the key of the lamp", s, [VIEW]) for s in ("A key.", "A lamp."))
    assert 0 < common < rare < 1


def test_words_of_asking_do_not_count_and_stems_do():
    assert support("How many hooks were there?", "One hook.", [VIEW]) == 1.0
