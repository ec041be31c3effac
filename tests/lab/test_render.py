"""A task, rendered, must be what the product will send and what the text really says."""

import random
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from lab import made
from lab.render import READ, SAY, Renderer, joined, said, special, turn
from lab.spans import best_sentences, quote, sentences
from lab.tables import QA_SOURCES, Texts, definition, literal, replaced, window
from lab.tokenizer import ANSWER, DOC, END, NONE, QUESTION, QUOTE, UNQUOTE
from lab.vocab import Vocabulary

TOKENIZER = Tokenizer.from_file(str(Path(__file__).parents[2] / "lab/model/tokenizer.json"))
VOCAB = Vocabulary(TOKENIZER)
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


def tables_of(rows: list[dict]):
    """A small Tables in memory."""
    texts = Texts(TOKENIZER)
    items = []
    titles = list(dict.fromkeys(r["title"] for r in rows))
    for r in rows:
        start, answer = literal(r)
        items.append(
            [
                texts.add(r["context"]),
                texts.add(r["question"]),
                texts.add(quote(r["context"], start, len(answer))),
                0,
                titles.index(r["title"]),
            ]
        )
    from lab.render import Tables, groups

    tables = Tables.__new__(Tables)
    arrays = texts.arrays()
    tables.tokens, tables.offsets, tables.qa = arrays["tokens"], arrays["offsets"], np.array(items, np.int32)
    tables.by_context = groups(tables.qa[:, 0])
    tables.by_article = {a: np.unique(tables.qa[i, 0]) for a, i in groups(tables.qa[:, 4]).items()}
    tables.by_source = {QA_SOURCES[0]: np.unique(tables.qa[:, 0])}
    return tables


class OneText:
    """A corpus of one text."""

    def draw(self, pick, limit, prose=False):
        return DOC, np.array(TOKENIZER.encode(TEXT).ids[:limit], np.uint16)


@pytest.fixture
def renderer() -> Renderer:
    other = row("Warsaw") | {
        "context": "The lighthouse of Eddystone was lit by 24 candles in 1759.",
        "question": "How many candles?",
        "title": "Eddystone",
        "answers": ["24"],
        "answer_start": [39],
    }
    return Renderer(
        tables_of([row("Warsaw"), row("1891", "When did she move?"), other]), OneText(), VOCAB, 1, {"squad": 1.0}
    )


def answers_in(tokens: np.ndarray) -> list[list[int] | None]:
    """What stands after every answer mark."""
    found: list[list[int] | None] = []
    ids = tokens.tolist()
    for at in (i for i, t in enumerate(ids) if t == ANSWER):
        end = ids.index(END, at)
        body = ids[at + 1 : end]
        found.append(None if body == [NONE] else body[1:-1])
    return found


@pytest.mark.parametrize("task", ["ask", "point", "search", "cloze", "recite", "needle", "recall"])
def test_every_quotation_is_tokens_of_what_was_read_before_it(renderer: Renderer, task: str):
    quoted = 0
    for _ in range(30):
        tokens, kinds = renderer.draw(task, 3000)
        ids, at = tokens.tolist(), 0
        while QUOTE in ids[at:]:
            start = ids.index(QUOTE, at)
            end = ids.index(UNQUOTE, start)
            read = tokens[:start][kinds[:start] == READ].tobytes()
            assert tokens[start + 1 : end].tobytes() in read
            assert set(kinds[start : end + 1].tolist()) == {SAY}
            quoted, at = quoted + 1, end
    assert quoted > 20


def test_only_the_answer_is_said(renderer: Renderer):
    tokens, kinds = joined(turn(special(100), special(200, 201)))
    assert tokens.tolist() == [QUESTION, 100, ANSWER, QUOTE, 200, 201, UNQUOTE, END]
    assert kinds.tolist() == [READ] * 3 + [SAY] * 5


def test_the_question_stands_before_and_after_the_passages():
    tokens, _ = joined(turn(special(100), None, [special(300), special(301)]))
    assert tokens.tolist() == [QUESTION, 100, DOC, 300, DOC, 301, QUESTION, 100, ANSWER, NONE, END]


def test_absent_is_said_only_where_the_question_is_about_another_article(renderer: Renderer):
    own = {TOKENIZER.encode(q).ids[0]: q for q in ("Where was Maria Curie born?", "When did she move?")}
    refused = 0
    for _ in range(200):
        ids = renderer.draw("ask", 2000)[0].tolist()
        about_curie = ids[1] == TOKENIZER.encode("Maria").ids[0]
        for question_at in (i for i, t in enumerate(ids) if t == QUESTION):
            none = ids[ids.index(ANSWER, question_at) + 1] == NONE
            refused += none
            if about_curie:
                assert none == (ids[question_at + 1] not in own)
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


def test_a_fact_is_planted_once_and_its_answer_is_in_it():
    filler = np.array(TOKENIZER.encode(TEXT).ids, np.uint16)
    for seed in range(40):
        text, turns = made.needles(filler, random.Random(seed), VOCAB)
        for _question, answer in turns:
            if answer is not None:
                assert answer.tobytes() in text.tobytes()
        assert len(text) > len(filler)


def test_an_answer_that_says_none():
    assert joined(said(None))[0].tolist() == [NONE, END]
