import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agent.sentences import sentences

PIECES = [
    "Mr. ",
    "He went. ",
    "“Go!” ",
    "he said. ",
    "\n\n",
    "\n",
    "# Title\n",
    "- item\n",
    "3.14 ",
    "J. R. Pell ",
    "No. 7 ",
    "… ",
    "中文。",
]


@given(st.text() | st.lists(st.sampled_from(PIECES)).map("".join))
def test_sentences_tile(text):
    """In order, apart, trimmed, and nothing but white space between them."""
    at = 0
    for a, b in sentences(text):
        assert a < b and not text[at:a].strip()
        assert text[a:b] == text[a:b].strip()
        at = b
    assert not text[at:].strip()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("He went. She stayed.", 2),
        ("Mr. Pell and Dr. Vane met at St. Aldhelm's. They spoke.", 2),
        ("“Go!” he said. “Now?” She went.", 3),
        ("“Stay here. Do not move.” The door shut.", 3),
        ("It cost 3.50 crowns. It was J. R. Pell who paid.", 2),
        ("See No. 7 on the list. There is no. Nothing.", 3),
        ("Well… perhaps. And then?", 2),
        ("# Title\nText of it. More.", 3),
        ("One line\nof a wrapped sentence. Two.", 2),
        ("A list:\n- one\n- two", 3),
        ("e.g. this one. And i.e. that.", 2),
        ("It was I. He left.", 2),
        ("他来了。她走了。", 2),
    ],
)
def test_where_sentences_end(text, count):
    found = [text[a:b] for a, b in sentences(text)]
    assert len(found) == count, found
