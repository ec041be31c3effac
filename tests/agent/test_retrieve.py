import random

from hypothesis import given, settings
from hypothesis import strategies as st

from services.agent.retrieve import retrieve
from tests.agent.twin import book

FILLER = "The rain fell on the roofs of the town and the people walked home along the river in the dusk."
FACTS = {
    "What is the secret code of Quentin?": "The secret code of Quentin is 48213.",
    "Where does Rosa keep the telescope?": "Rosa keeps the telescope in Seville.",
    "How many crowns did Otto pay for the kettle?": "Otto paid 77 crowns for the kettle.",
    "When were the bells recast?": "The great bell was recast by a founder from Bruges in 1791.",
}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_planted_facts_are_found(seed):
    rng = random.Random(seed)
    paragraphs = [FILLER] * 200
    for fact in FACTS.values():
        paragraphs[rng.randrange(200)] = f"{FILLER} {fact} {FILLER}"
    view = book("\n\n".join(paragraphs))
    for question, fact in FACTS.items():
        if fact in view.text:
            assert fact in retrieve([view], question, 3)[0].block.text


def test_a_passage_is_text_of_the_source_with_its_neighbours():
    view = book("\n\n".join(f"“Line {n},” said the {n}th sailor." for n in range(100)))
    hit = retrieve([view], "the 57th sailor", 1)[0]
    a, b = hit.block.char
    assert view.text[a:b] == hit.block.text
    assert "57th" in hit.block.text and len(hit.block.text) > 400
    assert hit.block.line == (1 + view.text.count("\n", 0, a), 1 + view.text.count("\n", 0, b - 1))


def test_neighbours_do_not_cross_a_chapter():
    view = book("## One\n\nThe cat sat.\n\n## Two\n\nThe dog ran.\n")
    hit = retrieve([view], "dog", 1)[0]
    assert "cat" not in hit.block.text


def test_words_and_accents_are_brought_to_their_stem():
    view = book("The cafés were closing.\n\n" + "\n\n".join([FILLER] * 20))
    assert "cafés" in retrieve([view], "Which cafe closed?", 1)[0].block.text


def test_scripts_without_spaces_are_searched_too():
    view = book("他住在上海的一条小街上。\n\n" + "我们今天去公园散步。\n\n" * 9)
    assert "上海" in retrieve([view], "谁住在上海？", 1)[0].block.text


def test_all_sources_are_searched_at_once():
    one, two = book("Apples are red.", "doc_a"), book("Plums are blue.", "doc_b")
    assert [h.source_id for h in retrieve([one, two], "plums apples", 4)] in (["doc_a", "doc_b"], ["doc_b", "doc_a"])
    assert retrieve([one, two], "plums", 4)[0].source_id == "doc_b"


def test_nothing_to_find():
    view = book("Apples are red.")
    assert retrieve([view], "", 3) == []
    assert retrieve([view], "?!", 3) == []
    assert retrieve([view], "zebra", 3) == []
    assert retrieve([], "zebra", 3) == []
    assert retrieve([view], 'a "quote AND (odd* query: ^', 3) is not None
