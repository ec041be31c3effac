"""Token runs of a source and the characters that they spell, for both kinds of tokenizer, any script."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import Copying
from engine.copying import Copier
from services.inference import sources
from services.inference.client import InferenceClient, special, text
from services.inference.pb import inference_pb2 as pb
from services.inference.server import InferenceServer
from services.inference.sources import Piece, Source, letters_of
from services.inference.text import Tokenizer, load_tokenizer
from tests.inference.helpers import QUESTION, ask, read
from tests.inference.test_text import tiktoken_folder  # noqa: F401  # a fixture

OPEN, CLOSE = 510, 511
WORDS = st.text(st.sampled_from("ab éW漢字\U0001f98a\u0301\n.") | st.characters(codec="utf-8"), min_size=1, max_size=30)


@pytest.fixture(scope="module", params=["json", "tiktoken"])
def tokenizer(request: pytest.FixtureRequest, model_dir: Path, tiktoken_folder: Path) -> Tokenizer:  # noqa: F811
    return load_tokenizer(model_dir if request.param == "json" else tiktoken_folder, 512)


@settings(deadline=None)
@given(texts=st.lists(WORDS, min_size=1, max_size=4), data=st.data())
def test_whatever_is_quoted_is_the_texts_letters_and_its_place_says_which(
    tokenizer: Tokenizer, texts: list[str], data: Any
) -> None:
    """Any walk through what is allowed, up to a random limit; texts of bytes that no token has whole included."""
    mark = next(iter(tokenizer.specials.values()))
    pieces = [Piece(10 + n, 100 * n, [mark, *tokenizer.encode(words)]) for n, words in enumerate(texts)]
    source = Source(pieces, letters_of(tokenizer))
    copier, quote = Copier(Copying((source.occurrences,), OPEN, CLOSE, data.draw(st.integers(1, 9)))), list[int]()
    copier.feed(OPEN)
    while (token := data.draw(st.sampled_from(copier.allowed().tolist()))) != CLOSE:  # type: ignore[union-attr]
        quote.append(token)
        copier.feed(token)
    said = b"".join(tokenizer.token_bytes(i) for i in quote).decode()  # whole characters, or this fails
    assert said
    places, count = source.found(quote, [], 64)
    assert len(places) == min(count, 64) > 0
    for place in places:
        n = place.number - 10
        assert texts[n][place.start : place.end] == said
        first = place.position - 100 * n
        read_there = b"".join(tokenizer.token_bytes(i) for i in pieces[n].ids[first : first + len(quote)]).decode()
        assert read_there in (said, " " + said)
        a, b = source.tokens(place)
        assert a < b and a <= sum(len(piece.ids) + 1 for piece in pieces[:n]) + first < b


def test_a_quote_may_leave_out_the_space_before_its_first_word(tiktoken_folder: Path) -> None:  # noqa: F811
    """The vocabulary has " W" and "W": a model may say the second where it read the first."""
    tokenizer = load_tokenizer(tiktoken_folder, 512)
    said, read_as = tokenizer.encode("World"), tokenizer.encode("a World. World")
    assert said[0] not in read_as
    source = Source([Piece(0, 0, read_as)], letters_of(tokenizer))
    Copying((source.occurrences,), OPEN, CLOSE).check([OPEN, *said, CLOSE])
    places, count = source.found(said, [], 64)
    assert [(place.start, place.end) for place in places] == [(2, 7), (9, 14)] and count == 2


def test_indexes_are_bounded_by_bytes(
    client: InferenceClient, server: InferenceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = server.servicer.loaded
    assert service is not None
    monkeypatch.setattr(sources, "KEPT_BYTES", 16 * 500)
    for name, words in (("a", "one two. " * 40), ("b", "three four. " * 40), ("c", "five six. " * 40)):
        client.open_session(name)
        read(client, name, words, segment="1/1")
        said = ask(client, name, QUESTION, copy=pb.Copy(session=True), forced=[special("quote"), text(words[:3])])
        assert said.last.quotes[0].count
        assert sum(source.nbytes for source in service.sources._kept.values()) <= 16 * 500
    assert len(service.sources._kept) == 1
