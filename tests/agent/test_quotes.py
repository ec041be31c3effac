"""Whatever the model says, a quote is the source's own letters or nothing."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agent.fold import fold
from services.agent.quotes import locate, nearest, occurrences, sentence_around
from tests.agent.twin import book

TEXT = """## One

The key to the lamp room hung on the seventh hook. “Take it,” said Mr. Pell, “and mind the step.”

In 1873 the harbour froze for 41 days — nobody crossed. The ofﬁce of the lamp-
lighter was well-known to every café owner in the town.

## Two

She paid 41 crowns for the ledger, and the ledger was green. The key was lost.
"""
VIEW = book(TEXT)


def same_letters(quote):
    return quote.char is None or TEXT[quote.char[0] : quote.char[1]] == quote.text


@given(st.text(max_size=80) | st.lists(st.sampled_from(TEXT.split()), max_size=12).map(" ".join))
def test_a_quote_is_always_the_sources_letters(said):
    quote = locate(said, VIEW)
    assert same_letters(quote)
    assert (quote.match == "none") == (quote.char is None) == (quote.text == "")


@given(st.data())
def test_a_stretch_of_whole_words_is_found_exactly(data):
    words = [m.span() for m in re.finditer(r"\S*\w\S*", TEXT)]
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, min(len(words) - 1, first + 15)))
    a, b = words[first][0], words[last][1]
    quote = locate(TEXT[a:b], VIEW, near=[(a, b)])
    assert (quote.match, quote.text) == ("exact", TEXT[a:b])
    assert quote.char == (a, b)
    assert quote.line == (1 + TEXT.count("\n", 0, a), 1 + TEXT.count("\n", 0, b - 1))


MANGLES = [
    str.upper,
    lambda s: s.replace(" ", "\n  "),
    lambda s: s.replace("“", '"').replace("”", '"'),
    lambda s: s.replace("—", "--"),
    lambda s: s.replace("ﬁ", "fi"),
    lambda s: s.replace("-\n", ""),
    lambda s: s.replace("é", "e"),
    lambda s: s.replace("lamp-", "lam\u00adp-"),
]


@given(st.data(), st.sampled_from(MANGLES))
def test_how_it_is_set_in_type_makes_no_difference(data, mangle):
    words = [m.span() for m in re.finditer(r"[\w“”,.—éﬁ-]+(?:\n\w+)?", TEXT)]
    first = data.draw(st.integers(0, len(words) - 6))
    a, b = words[first][0], words[first + 5][1]
    quote = locate(mangle(TEXT[a:b]), VIEW, near=[(a, b)])
    assert quote.match in ("exact", "normalised")
    assert same_letters(quote)
    assert fold(quote.text).text == fold(TEXT[a:b]).text


@pytest.mark.parametrize(
    ("said", "source"),
    [
        ('"take it," said mr. pell', "“Take it,” said Mr. Pell"),
        ("The office of the lamplighter", "The ofﬁce of the lamp-\nlighter"),
        ("41 days - nobody", "41 days — nobody"),
        ("41 days—nobody", "41 days — nobody"),
        ("wellknown to every cafe", "well-known to every café"),
        ("THE   SEVENTH\nHOOK", "the seventh hook"),
    ],
)
def test_normalised(said, source):
    quote = locate(said, VIEW)
    assert (quote.match, quote.text) == ("normalised", source)


def test_a_near_miss_is_no_quote():
    assert locate("The key for the lamp room hung on a seventh hook", VIEW).match == "none"


def test_a_near_miss_may_not_change_a_number():
    assert locate("In 1878 the harbour froze for 41 days", VIEW).match == "none"


@pytest.mark.parametrize("said", ["", "  \n", "...", "“”", "the golden elephant of Samarkand", "harbour master"])
def test_what_is_not_there_is_no_quote(said):
    quote = locate(said, VIEW)
    assert (quote.match, quote.text, quote.char) == ("none", "", None)


def test_no_match_inside_a_word():
    assert locate("ledge", VIEW).match == "none"
    assert locate("1", VIEW).match == "none"


def test_of_several_occurrences_the_one_nearest_the_evidence_is_taken():
    first, second = occurrences("41", VIEW)
    chapter_two = VIEW.outline[1].char
    assert locate("41", VIEW).char == first
    assert locate("41", VIEW, near=[chapter_two]).char == second
    assert nearest([first, second], [(chapter_two[1], chapter_two[1])]) == second


def test_a_citation_knows_its_line_and_chapter():
    quote = locate("the ledger was green", VIEW)
    assert (quote.line, quote.chapter, quote.path, quote.source_id) == ((10, 10), 1, None, "doc_a")


def test_the_sentence_around_a_quote():
    a, b = sentence_around(VIEW, locate("the step", VIEW).char)
    assert TEXT[a:b] == "“Take it,” said Mr. Pell, “and mind the step.”"


def test_a_sentence_without_end_is_cut_at_whole_words():
    view = book("word " * 1000)
    a, b = sentence_around(view, (2500, 2504))
    assert b - a <= 620
    assert set(view.text[a:b].split()) == {"word"}


@given(st.text(max_size=200))
def test_folding_points_back_into_the_text(text):
    folded = fold(text)
    assert len(folded.origin) == len(folded.text)
    assert list(folded.origin) == sorted(folded.origin)
    for n in range(len(folded.text)):
        a, b = folded.span(n, n + 1)
        assert 0 <= a < b <= len(text)
