"""Where the engine says that a quote stands is where it stands in the text: with a real engine, and with the twin."""

import re

import pytest

from services.agent import answer, read_source
from services.agent.copied import Shown, in_prompt, in_session, numbers
from services.agent.locating import in_sources
from services.agent.model import Places, Said, listen, special, text
from services.agent.prompts import find_turn, question_turn
from services.agent.reading import open_session
from services.inference.pb.inference_pb2 import Copy, Stretch
from services.ingest.types import Block
from tests.agent.twin import Twin, book, quoting, repository
from tests.inference.conftest import client, make_server, model_dir, server  # noqa: F401  # fixtures

TEXT = """## One

The key to the lamp room hung on the seventh hook. Café Zoë sold 漢字 and 🦊.

## Two

She paid 41 crowns for the ledger, and the ledger was green. The key was lost.
"""
CODE = {"a.py": "def one(x):\n    return x\n", "é/b.py": "def two(x):\n    # 🦊\n    return x + one(x)\n"}
HOT = {"temperature": 9.0, "max_tokens": 24, "forced": [special("quote")], "stop_specials": ["pad"]}


def said_hot(client, session, prompt, copy):  # noqa: F811
    for seed in range(8):
        with client.generate(session, prompt, copy=copy, seed=seed, **HOT) as stream:
            yield listen(stream)


def checked(client, session, views, quotable, prompt):  # noqa: F811
    """Every place of every quote of a random model, in the text; returns how many."""
    count = 0
    for said in said_hot(client, session, prompt, quotable.copy()):
        for words, places in zip(said.quotes, said.places, strict=True):
            spans = quotable.spans(words, places)
            assert all(view.text[slice(*span)] == words for view, span in spans)
            assert places.count and bool(spans) == any(words in view.text for view in views)  # else it has a path
            count += len(spans)
    return count


ASK = [special("question"), text("Which?"), special("answer")]


def test_a_book_and_a_repository_read_by_a_real_engine(client):  # noqa: F811
    views = [book(TEXT), repository(CODE)]
    for view in views:
        read_source(client, view, view.engine_session)
        assert checked(client, view.engine_session, [view], in_session([view]), ASK) >= 8
    open_session(client, views, "ses_1")
    list(client.read("ses_1", [special("question"), text("zzz"), special("end")], segment="turn"))
    assert checked(client, "ses_1", views, in_session(views), ASK) >= 8
    early = views[0].upto(views[0].outline[0].char[1])
    open_session(client, [early], "ses_early")
    assert checked(client, "ses_early", [early], in_session([early]), ASK) >= 8


def test_passages_of_a_prompt_by_a_real_engine(client):  # noqa: F811
    view = book(TEXT)
    spans = [view.blocks[n].char for n in (3, 1)]
    prompt = question_turn("Which?", [view.text[slice(*span)] for span in spans])
    assert checked(client, "", [view], in_prompt(prompt, [Shown(view, span) for span in spans]), prompt) >= 8


def test_evidence_brings_its_chapters_place_to_the_front(client):  # noqa: F811
    view = book(TEXT)
    read_source(client, view, view.engine_session)
    quotable, forced = in_session([view]), [special("quote"), text("The key"), special("/quote")]
    for chapter in view.outline:
        copy = quotable.copy([(view, chapter.char)])
        with client.generate(view.engine_session, ASK, copy=copy, max_tokens=4, forced=forced) as stream:
            said = listen(stream)
        (_, (a, b)), *_ = quotable.spans(said.quotes[0], said.places[0])
        assert chapter.char[0] <= a and b <= chapter.char[1]


# with the twin


def test_the_parts_that_are_shown():
    assert numbers(question_turn("q", ["a", "b"])) == [3, 5]
    assert numbers(find_turn("q", [("p", "c")])) == [3] and numbers(question_turn("q", [])) == []


def test_nothing_to_quote_from_asks_for_no_quotes():
    assert in_session([]).copy() is None and in_session([book("", session="src")]).copy() is None
    assert in_session([book("x")]).copy() == Copy(session=True)


@pytest.mark.parametrize(("place", "span"), [((0, 3), None), ((4, 9), None), ((5, 8), (20, 23)), ((5, 30), None)])
def test_a_place_in_front_of_a_files_text_is_none(place, span):
    shown = Shown(book(TEXT), (20, 40), before=5)
    assert shown.span(Stretch(start=place[0], end=place[1])) == span


def places_of(view, words, most=64):
    found = [m.start() for m in re.finditer(re.escape(words), view.text)]
    base = in_session([view]).segments[0].char[1]
    stretches = [Stretch(number=int(a >= base), start=a - base * (a >= base), end=0) for a in found]
    for stretch in stretches:
        stretch.end = stretch.start + len(words)
    return Places(stretches[:most], len(found))


def located(view, words, places, hits=()):
    (quote,) = in_sources(Said([words], [places]), in_session([view]), [view], hits)
    return quote


def test_a_quote_is_where_the_engine_says():
    view = book(TEXT)
    second = view.text.rindex("The key")
    places = Places([p for p in places_of(view, "The key").stretches if p.number == 1], 1)
    assert located(view, "The key", places).char == (second, second + 7)
    assert located(view, " the ledger", places_of(view, " the ledger")).text == "the ledger"


def test_where_the_letters_differ_it_is_looked_for_and_says_so():
    view = book(TEXT)
    wrong = Places([Stretch(number=1, start=1, end=8)], 1)
    assert located(view, "THE KEY", wrong).match == "normalised"
    assert located(view, "no such thing", wrong).match == "none"
    assert located(view, "...", Places([Stretch(number=0, start=0, end=3)], 1)).match == "none"


def test_of_more_places_than_were_told_the_nearest_is_still_found():
    view = book("so it goes. " * 100 + "\n\nand so it goes on")
    (hit,) = [type("Hit", (), {"source_id": view.id, "block": Block(0, "p", "", (1200, 1214), (1, 1))})]
    quote = located(view, "so it goes", Places(places_of(view, "so it goes", 64).stretches, 101), [hit])
    assert quote.char == (1206, 1216) and quote.match == "exact"


def test_a_whole_word_is_preferred_to_a_part_of_one():
    view = book("A particle of art.\n")
    assert located(view, "art", places_of(view, "art")).char == (14, 17)


@pytest.mark.usefixtures("plainly")
def test_the_agent_asks_with_the_constraint_on():
    asked = []

    class Listening(Twin):
        def generate(self, *args, **options):
            asked.append(options["copy"])
            return super().generate(*args, **options)

    model, view = Listening(quoting("green")), book(TEXT)
    read_source(model, view, view.engine_session)
    answer(model, [view], "ses_1", "On which hook did the key hang?")
    assert asked[0] == Copy(session=True)
    assert len(asked) == 2 and not asked[1].session and asked[1].parts[0] == 3
