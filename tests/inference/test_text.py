import base64
import random
from pathlib import Path

import pytest

from services.errors import InvalidInput
from services.inference.client import special, text, tokens
from services.inference.text import Detokenizer, StopStrings, Tokenizer, encode_parts, load_tokenizer, special_id

TEXTS = [
    "Hello 漢字 World's 1234 don't カタカナ漢字かな HELLOWorld  x\n\n y",
    "中文abc中文ABC, 日本語です 한국어 e\u0301 Ǆa 🦊👩‍👩‍👧",
    "",
    " \t\n  \r\n x",
]


@pytest.fixture(scope="module")
def tiktoken_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 bytes, then merges, as base64 and rank: the released file's form, small."""
    folder = tmp_path_factory.mktemp("tiktoken")
    merges = [b"He", b"ll", b"Hell", b"Hello", b" W", b"or", b"ld", b"12", b"123", "漢".encode()[:2], "漢".encode()]
    ranks = [bytes([i]) for i in range(256)] + merges
    lines = [base64.b64encode(token) + b" " + str(rank).encode() for rank, token in enumerate(ranks)]
    (folder / "tiktoken.model").write_bytes(b"\n".join(lines) + b"\n")
    return folder


@pytest.fixture(params=["json", "tiktoken"])
def tokenizer(request: pytest.FixtureRequest, model_dir: Path, tiktoken_folder: Path) -> Tokenizer:
    return load_tokenizer(model_dir if request.param == "json" else tiktoken_folder, 512)


@pytest.mark.parametrize("words", TEXTS)
def test_what_is_encoded_comes_back(tokenizer: Tokenizer, words: str) -> None:
    ids = tokenizer.encode(words)
    assert b"".join(tokenizer.token_bytes(i) for i in ids).decode() == words


def test_text_never_becomes_a_special_token(tokenizer: Tokenizer) -> None:
    special_ids = set(tokenizer.specials.values())
    for name in [*tokenizer.specials, "<|end|>", "<|im_end|>", "[EOS]"]:
        assert not special_ids & set(tokenizer.encode(f"a{name}b {name}"))


def test_characters_come_whole_however_tokens_cut_them(tokenizer: Tokenizer) -> None:
    words = "".join(random.Random(3).choices("aé漢字🦊 \n한", k=300))
    out = Detokenizer(tokenizer)
    pieces = [out.feed(i) for i in tokenizer.encode(words)]
    assert "".join(pieces) + out.flush() == words
    assert not any("\ufffd" in piece for piece in pieces)


def test_half_a_character_at_the_end_shows_as_a_replacement(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("🦊")
    if len(ids) == 1:
        pytest.skip("one token in this vocabulary")
    out = Detokenizer(tokenizer)
    assert "".join(out.feed(i) for i in ids[:-1]) == ""
    assert out.flush() == "\ufffd"


def test_tiktoken_splits_as_the_released_pattern_says(tiktoken_folder: Path) -> None:
    """`&&` is class intersection: runs of Han stand alone, and letters beside them do not swallow them."""
    tokenizer = load_tokenizer(tiktoken_folder, 512)
    spelled = [tokenizer.token_bytes(i) for i in tokenizer.encode("Hello 漢漢Hello 1234")]
    han = "漢".encode()
    assert spelled == [b"Hello", b" ", han, han, b"Hello", b" ", b"123", b"4"]


def test_tiktoken_intersection_agrees_with_a_second_regex_engine(tiktoken_folder: Path) -> None:
    """Every substring of a sample gets a rank, so tiktoken's pieces become visible; `regex` in V1 mode has `&&` too."""
    import regex
    import tiktoken

    from services.inference.text import KIMI_SPLIT

    for words in TEXTS:
        data, ranks = words.encode(), {bytes([i]): i for i in range(256)}
        for size in range(2, len(data) + 1):
            for start in range(len(data) - size + 1):
                ranks.setdefault(data[start : start + size], len(ranks))
        whole = tiktoken.Encoding("whole", pat_str=KIMI_SPLIT, mergeable_ranks=ranks, special_tokens={})
        pieces = [whole.decode_single_token_bytes(i).decode() for i in whole.encode_ordinary(words)]
        assert pieces == regex.compile(KIMI_SPLIT, regex.V1).findall(words)


def test_tiktoken_specials_follow_the_ranks_and_stop_at_the_embedding(tiktoken_folder: Path) -> None:
    tokenizer = load_tokenizer(tiktoken_folder, 267 + 256)
    assert tokenizer.specials["[BOS]"] == 267
    assert tokenizer.specials["<|im_end|>"] == 269
    assert tokenizer.specials["<|reserved_token_272|>"] == 272
    assert max(tokenizer.specials.values()) == 267 + 255  # two more slots exist, past the embedding
    assert special_id(tokenizer, "eos") == 268


def test_very_long_runs_are_cut_and_come_back(tiktoken_folder: Path) -> None:
    tokenizer = load_tokenizer(tiktoken_folder, 512)
    words = "ab " * 10 + "x" * 60_000 + " cd"
    assert b"".join(tokenizer.token_bytes(i) for i in tokenizer.encode(words)).decode() == words


def test_parts_are_tokenised_one_by_one(model_dir: Path) -> None:
    tokenizer = load_tokenizer(model_dir, 512)
    ids = encode_parts(tokenizer, [special("doc"), text("It was"), tokens([40, 41]), special("/quote")])
    assert ids == [3, *tokenizer.encode("It was"), 40, 41, 8]


@pytest.mark.parametrize("part", [special("nothing"), tokens([512]), tokens([2**31])])
def test_unknown_specials_and_ids_are_refused(model_dir: Path, part: object) -> None:
    with pytest.raises(InvalidInput):
        encode_parts(load_tokenizer(model_dir, 512), [part])


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_text_ends_before_a_stop_string_however_it_arrives(size: int) -> None:
    words = "one two STOP three"
    stops = StopStrings(["\n\n", "STOP", "STOPPED"])
    out = "".join(stops.feed(words[n : n + size]) for n in range(0, len(words), size) if not stops.stopped)
    assert (out, stops.stopped, stops.flush()) == ("one two ", True, "")


def test_half_a_stop_string_is_text_in_the_end() -> None:
    stops = StopStrings(["STOP"])
    assert stops.feed("a ST") == "a "
    assert stops.feed("O") == ""
    assert stops.flush() == "STO"
    assert not stops.stopped
