"""What is taken for the answer of the product, and which sentences the references choose."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from lexrank import STOPWORDS, LexRank

from lab import corpus
from lab.corpus import by_hash
from lab.eval import items, leak
from lab.eval.article import short
from lab.eval.asking import answered, groups, source
from lab.eval.items import articles, for_calibration, measured, sample, valid
from lab.eval.summaries import others, rouge
from lab.pack import PACK
from services.agent.model import Said, special
from services.agent.prompts import question_turn
from services.agent.types import Answer, Quote

SENTENCE = "The keeper lives in Osk."
CATS = [
    *("Rain fell on the barn.", "The cat chased the grey mouse through the barn.", "A cat chased a mouse."),
    *("The mouse fled from the cat.", "Nobody saw rain."),
]


def told(text: str, start: int) -> Answer:
    quote = Quote(SENTENCE, "s", (0, len(SENTENCE)), span=(start, start + len(SENTENCE)))
    return Answer(text, [quote], "read", {}, {}, [])


def test_the_words_before_the_cited_sentence_are_the_answer() -> None:
    assert short(told(f"in Osk — “{SENTENCE}”", 10)) == "in Osk"
    assert short(told(f"“{SENTENCE}”", 1)) == SENTENCE
    assert short(replace(told(f"“{SENTENCE}”", 1), answered=False)) is None


def test_none_is_a_refusal_and_silence_is_not() -> None:
    assert answered(Said(quotes=[" Osk", "x"])) == "Osk"
    assert answered(Said(none=True)) is None
    assert answered(Said()) == ""


def test_only_what_was_read_may_be_quoted() -> None:
    prompt = [*question_turn("Where?", ["one", "two"]), special("answer")]
    allowed = source("", prompt)
    assert [prompt[n].text for n in allowed.parts] == ["one", "two"]
    assert not allowed.session and source("s", question_turn("Where?", [])).session


def test_posts_with_one_title_are_no_article() -> None:
    rows = [
        {"title": title, "source": origin, "context": f"{n} " * 4_000, "paragraph": 9 - n}
        for title, origin in (("Cat", "squad-1.1-dev"), ("Posts", "squadshifts-reddit"))
        for n in range(3)
    ]
    assert articles(rows) == {"Cat": [f"{n} " * 4_000 for n in (2, 1, 0)]}
    assert articles(rows[:1]) == {}


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A training pack of one question and three articles, of which training read one."""
    titles = ["Asked about", "Nothing asked"]
    kept = [{"id": "wiki-1", "title": title, "text": f"{title}, at length."} for title in titles]
    hashed = next(n for n in range(2_000) if by_hash({"id": f"wiki-{n}"}))
    files = {
        "qa/squad": [{"title": "Asked_about", "split": "valid"}],
        "corpus/wiki-00": [*kept, {"id": f"wiki-{hashed}", "title": "By its hash", "text": "By its hash, at length."}],
    }
    for name, rows in files.items():
        path = tmp_path / f"{name}.jsonl.zst"
        path.parent.mkdir()
        path.write_bytes(zstandard.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    for module in (corpus, items):
        monkeypatch.setattr(module, "PACK", tmp_path)
    corpus.asked_titles.cache_clear()
    items.held_texts.cache_clear()
    yield tmp_path
    corpus.asked_titles.cache_clear()
    items.held_texts.cache_clear()


def test_text_that_is_measured_on_is_what_training_leaves_out(pack: Path) -> None:
    """By the rule that lab.parcel packs by: articles of the questions too."""
    assert items.held_texts("wiki") == ("Asked about, at length.", "By its hash, at length.")
    assert list(leak.trained(pack / "corpus/wiki-00.jsonl.zst")) == ["Nothing asked, at length."]


@pytest.mark.skipif(not (PACK / "qa/squad.jsonl.zst").exists(), reason="the training pack is not part of a clone")
def test_no_article_is_both_calibrated_on_and_measured() -> None:
    every, calibrated, kept = (rows("qa/squad") for rows in (valid, for_calibration, measured))
    assert not {row["title"] for row in calibrated} & {row["title"] for row in kept}
    assert sorted(row["id"] for row in (*calibrated, *kept)) == sorted(row["id"] for row in every)
    assert calibrated and articles(calibrated) and articles(kept)
    assert 0.05 < len(calibrated) / len(every) < 0.3


def test_samples_are_the_same_for_the_same_seed() -> None:
    assert sample(range(50), 5, 3) == sample(range(50), 5, 3) != sample(range(50), 5, 4)
    assert sorted(sample(range(4), 9, 1)) == [0, 1, 2, 3]
    assert groups("abcabd", str) == [["a", "a"], ["b", "b"], ["c"], ["d"]]


def test_the_references_choose_in_the_order_of_the_text() -> None:
    found = others(CATS, CATS[:2], LexRank([CATS, ["Quite another text."]], stopwords=STOPWORDS["en"]))
    assert found["lead.3"] == CATS[:3] and found["lead.same"] == CATS[:2]
    assert found["lexrank.3"] == CATS[1:4]
    assert set(found["lexrank.same"]) < set(found["lexrank.3"])
    assert found["central.same"] == [s for s in CATS if s in found["central.same"]]


def test_rouge_by_hand() -> None:
    found = rouge("the cat sat down", "the cat ran")
    assert round(found["rouge1"], 4) == round(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4), 4)
    assert round(found["rouge2"], 4) == round(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3), 4)
    assert found["rougeL"] == found["rouge1"]
