"""A task, rendered, must be what the product will send and what the text really says."""

import random
from collections import Counter

import numpy as np
import pytest

from lab.pieces import occurs
from lab.render import READ, SAY, Renderer, joined, said, special, turn
from lab.spans import best_sentences, quote, sentences
from lab.tables import definition, literal, replaced, window
from lab.tokenizer import ANSWER, DOC, END, NONE, QUESTION, QUOTE, UNQUOTE
from tests.lab.small import make_renderer

TEXT = (
    "Maria Curie was born in Warsaw in 1867. She moved to Paris in 1891 and studied physics there. "
    "In Paris she met Pierre Curie, whom she married in 1895. The Nobel Prize of 1903 went to both of them. "
) * 6


def row(answer: str, question: str = "Where was Maria Curie born?") -> dict:
    return {
        "id": "x",
        "context": TEXT,
        "question": question,
        "answers": [answer],
        "answer_start": [TEXT.index(answer)],
        "title": "Curie",
    }


@pytest.fixture(scope="module")
def renderer(tmp_path_factory) -> Renderer:
    return make_renderer(tmp_path_factory.mktemp("small"))


def answers_in(tokens: np.ndarray) -> list[list[int] | None]:
    """What stands after every answer mark."""
    found: list[list[int] | None] = []
    ids = tokens.tolist()
    for at in (i for i, t in enumerate(ids) if t == ANSWER):
        end = ids.index(END, at)
        body = ids[at + 1 : end]
        found.append(None if body == [NONE] else body[1:-1])
    return found


QUOTING = ["ask", "point", "article", "cloze", "blanks", "recite", "needle", "keys", "values", "track", "recall"]


@pytest.mark.parametrize("task", [*QUOTING, "find", "summarise"])
def test_every_quotation_is_tokens_of_what_was_read_before_it(renderer: Renderer, task: str):
    quoted = 0
    for _ in range(30):
        tokens, kinds = renderer.draw(task, 3000)
        ids, at = tokens.tolist(), 0
        while QUOTE in ids[at:]:
            start = ids.index(QUOTE, at)
            end = ids.index(UNQUOTE, start)
            assert occurs(tokens[start + 1 : end], tokens[:start][kinds[:start] == READ])
            assert set(kinds[start : end + 1].tolist()) == {SAY}
            quoted, at = quoted + 1, end
    assert quoted > 15


@pytest.mark.parametrize("task", [*QUOTING, "find", "summarise", "language"])
@pytest.mark.parametrize("limit", [512, 2000, 6000])
def test_a_sequence_is_no_longer_than_its_limit_and_mostly_ends_with_its_end(renderer: Renderer, task: str, limit: int):
    drawn = [renderer.draw(task, limit) for _ in range(20)]
    assert max(len(tokens) for tokens, _ in drawn) <= limit
    if task != "language" and (task, limit) != ("summarise", 512):  # no document of the small world is as short
        assert sum(tokens[-1] == END for tokens, _ in drawn) >= 15


def test_only_the_answer_is_said(renderer: Renderer):
    tokens, kinds = joined(turn(special(100), special(200, 201)))
    assert tokens.tolist() == [QUESTION, 100, ANSWER, QUOTE, 200, 201, UNQUOTE, END]
    assert kinds.tolist() == [READ] * 3 + [SAY] * 5


def test_the_question_stands_before_and_after_the_passages():
    tokens, _ = joined(turn(special(100), None, [special(300), special(301)]))
    assert tokens.tolist() == [QUESTION, 100, DOC, 300, DOC, 301, QUESTION, 100, ANSWER, NONE, END]


@pytest.mark.parametrize("task", ["ask", "cloze"])
def test_a_question_stands_behind_its_paragraph_or_before_it_and_after(renderer: Renderer, task: str):
    firsts = Counter(int(renderer.draw(task, 1500)[0][0]) for _ in range(60))
    assert set(firsts) == {DOC, QUESTION} and min(firsts.values()) > 10


@pytest.mark.parametrize("task", ["ask", "article", "point"])
def test_what_is_refused_was_asked_without_its_paragraph(renderer: Renderer, task: str, monkeypatch):
    """In the small world every question belongs to one paragraph."""
    monkeypatch.setattr(renderer, "swap_share", 0.0)
    monkeypatch.setattr(renderer, "left_out", (0.0,))
    table = renderer.tables
    paragraph = {table.text(question).tobytes(): table.text(context) for context, question, *_ in table.qa.tolist()}
    refused = 0
    for _ in range(150):
        tokens, _ = renderer.draw(task, 3000)
        ids = tokens.tolist()
        for at in (i for i, t in enumerate(ids) if t == NONE):
            asked = at - 1 - ids[:at][::-1].index(QUESTION)
            own = paragraph[tokens[asked + 1 : at - 1].tobytes()]
            assert not occurs(own, tokens[:asked])
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("answer", ["Maria Curie", "Warsaw", "1895", "The Nobel Prize"])
def test_the_answer_is_the_text_letter_for_letter(answer: str):
    start, found = literal(row(answer))
    cut = quote(TEXT, start, len(found))
    assert cut.strip() == answer and cut in TEXT
    assert (cut[0] == " ") == (start > 0)


def test_an_answer_that_is_not_in_the_text_is_no_row():
    assert literal(row("Warsaw") | {"answers": ["Krakow"]}) is None
    assert literal(row("Warsaw") | {"answer_start": [-1]}) is None


def test_a_long_context_is_cut_around_its_answer():
    text = "word " * 2000 + "The needle is here. " + "word " * 2000
    cut = window({"id": "a", "context": text, "answers": ["needle"], "answer_start": [text.index("needle")]})
    assert len(cut["context"]) <= 2400
    assert literal(cut)[1] == "needle"


def test_replacing_a_name_moves_it_everywhere():
    changed, (start, name) = replaced(row("Warsaw"), (TEXT.index("Warsaw"), "Warsaw"), ["Lisbon"], random.Random(1))
    assert "Warsaw" not in changed["context"] and changed["context"][start : start + 6] == name == "Lisbon"
    assert changed["context"].count("Lisbon") == TEXT.count("Warsaw")


def test_sentences_are_whole_and_the_chosen_are_nearest():
    spans = sentences(TEXT)
    assert [TEXT[a:b] for a, b in spans][:2] == [
        "Maria Curie was born in Warsaw in 1867.",
        "She moved to Paris in 1891 and studied physics there.",
    ]
    (a, b), *_ = best_sentences(TEXT, "The Nobel Prize went to both", 1)
    assert TEXT[a:b] == "The Nobel Prize of 1903 went to both of them."


def test_the_definition_is_the_line_that_defines():
    code = "@decorated\n    def area(self, r):\n        return r * r\n"
    start, length = definition(code)
    assert code[start : start + length] == "def area(self, r):"


def test_an_answer_that_says_none():
    assert joined(said(None))[0].tolist() == [NONE, END]
