"""Any text comes back as it was, and none of it becomes a special token."""

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies
from tokenizers import Tokenizer

from lab.tokenizer import SPECIALS, VOCAB

TOKENIZER = Tokenizer.from_file(str(Path(__file__).parents[2] / "lab/model/tokenizer.json"))


@settings(deadline=None)
@given(strategies.text(max_size=300))
def test_any_text_comes_back(text: str):
    ids = TOKENIZER.encode(text).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text
    assert all(len(SPECIALS) <= i < VOCAB for i in ids)


@pytest.mark.parametrize(
    "text", ["", " ", "\r\n\t", "  a  b ", "日本語の栞", "Ωμέγα", "עברית", "🎉👩‍🔬", "e\u0301", "\x00\x7f\x80", "١٢٣"]
)
def test_scripts_and_bytes_come_back(text: str):
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


def test_every_byte_has_a_token():
    text = "".join(map(chr, range(0x100))) + "\U0010ffff\ud7ff\ue000"
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids) == text


def test_specials_have_their_places_and_text_never_reaches_them():
    assert [TOKENIZER.token_to_id(s) for s in SPECIALS] == list(range(16))
    assert TOKENIZER.get_vocab_size() == VOCAB
    for special in SPECIALS:
        assert min(TOKENIZER.encode(f"a{special}b").ids) > 15


def test_digits_stand_alone():
    tokens = TOKENIZER.encode("in 1985 and 3.14 or x86").tokens
    assert [t for t in tokens if any(c.isdigit() for c in t)] == list("198531486")


def test_a_word_after_a_space_is_one_piece_with_it():
    assert TOKENIZER.encode("the house").tokens == ["the", "Ġhouse"]
