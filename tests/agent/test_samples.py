"""The sample book and its facts hold together, and retrieval points at each fact."""

import json
import re
from pathlib import Path

import pytest

from services.agent.quotes import locate, sentence_around
from services.agent.retrieve import retrieve
from tests.agent.twin import book

SAMPLES = Path(__file__).parents[2] / "docs" / "samples"
TEXT = (SAMPLES / "the-lamplighters-ledger.md").read_text(encoding="utf-8")
FACTS = json.loads((SAMPLES / "facts.json").read_text(encoding="utf-8"))
ANSWERED = [fact for fact in FACTS if fact["answer"]]
VIEW = book(TEXT)
by_question = pytest.mark.parametrize("fact", ANSWERED, ids=lambda fact: fact["question"])


def test_a_novella_of_twelve_chapters():
    assert len(TEXT.split()) >= 12_500
    chapters = re.findall(r"^## Chapter (\d+)\. \S", TEXT, re.M)
    assert [int(n) for n in chapters] == list(range(1, 13))
    assert {fact["chapter"] for fact in ANSWERED} == set(range(1, 13))
    assert len(FACTS) - len(ANSWERED) == 5


@by_question
def test_every_fact_is_in_its_chapter_letter_for_letter(fact):
    chapter = slice(*VIEW.outline[fact["chapter"] - 1].char)
    assert TEXT.count(fact["sentence"]) == TEXT[chapter].count(fact["sentence"]) == 1
    assert fact["answer"] in fact["sentence"]


@by_question
def test_a_passage_that_retrieval_points_at_holds_the_answer(fact):
    assert any(fact["sentence"] in hit.block.text for hit in retrieve([VIEW], fact["question"], 3))


@by_question
def test_the_answer_leads_back_to_its_sentence(fact):
    near = [hit.block.char for hit in retrieve([VIEW], fact["sentence"], 1)]
    a, b = sentence_around(VIEW, locate(fact["answer"], VIEW, near).char)
    assert fact["sentence"] in TEXT[a:b]
