"""What the loader gives is what the plan says, and facts, swaps and parcels keep the text literal."""

import json
import random

import numpy as np
import pytest
import zstandard

from lab import corpus, made
from lab.cloze import clozes
from lab.corpus import Corpus, held_out
from lab.loader import LEAST, Share, fill
from lab.parcel import PARCELS, parcel_of
from lab.pieces import occurs, places
from lab.plan import CORPUS, PHASES, Phase, rate_at
from lab.render import Renderer
from lab.swap import swapped
from lab.tokenizer import END
from tests.lab.small import ELSEWHERE, TOKENIZER, VOCAB, article, make_corpus, make_renderer


@pytest.fixture(scope="module")
def renderer(tmp_path_factory) -> Renderer:
    return make_renderer(tmp_path_factory.mktemp("small"))


def ids(text: str) -> np.ndarray:
    return np.array(TOKENIZER.encode(text).ids, np.uint16)


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: f"until {phase.until}")
def test_every_task_gets_its_share_of_the_tokens(renderer: Renderer, phase: Phase, capsys):
    """Thousands of sequences; short and long ones are held to the same account, but for the last one of a task."""
    share, longest = Share(phase.tasks), 0
    while share.given.total() < 1_500_000:
        ends = fill(renderer, phase, 65536, share)[3]
        longest = max(longest, int(ends.diff().max()))
    total = share.given.total()
    given = {task: share.given[task] / total for task in phase.tasks}
    with capsys.disabled():
        print(f"\nuntil {phase.until}: " + ", ".join(f"{t} {given[t]:.3f} of {phase.tasks[t]}" for t in phase.tasks))
    assert sum(phase.tasks.values()) == pytest.approx(1.0)
    for task, wanted in phase.tasks.items():
        assert abs(given[task] - wanted) < 0.005 + longest / total


def test_a_row_is_filled_with_whole_sequences(renderer: Renderer):
    whole = cut = 0
    for _ in range(30):
        tokens, targets, weights, ends = fill(renderer, PHASES[1], 8192, Share(PHASES[1].tasks))
        assert len(tokens) == len(targets) == len(weights) == ends[-1] == 8192
        for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            assert targets[start : end - 1].tolist() == tokens[start + 1 : end].tolist() and weights[end - 1] == 0
            asked = (weights[start:end] == PHASES[1].say_weight).any()
            whole, cut = whole + int(asked and tokens[end - 1] == END), cut + int(asked and tokens[end - 1] != END)
    assert whole > 20 * cut
    assert LEAST < 1024


def test_the_rate_rises_stays_and_falls():
    assert rate_at(0.0, 0) < rate_at(0.0, 75) < rate_at(0.0, 149) == 1.0 == rate_at(0.5, 10**6)
    assert 1.0 > rate_at(0.7, 10**6) > rate_at(0.9, 10**6) > rate_at(1.0, 10**6) == 0.02


@pytest.mark.parametrize("task", [made.needles, made.keys, made.values, made.track])
def test_every_planted_answer_stands_in_the_text(task):
    filler, answered, absent = ids(article("Bergen") * 4), 0, 0
    for seed in range(60):
        text, turns = task(filler, random.Random(seed), VOCAB)
        for _, answer in turns:
            answers = answer if isinstance(answer, list) else [] if answer is None else [answer]
            assert all(occurs(one, text) for one in answers)
            answered, absent = answered + len(answers), absent + (answer is None)
    assert answered > 100
    assert absent > 5 or task in (made.values, made.track)


def test_values_of_one_name_are_asked_in_the_order_of_the_text():
    filler = ids(article("Bergen") * 4)
    several = 0
    for seed in range(60):
        text, turns = made.values(filler, random.Random(seed), VOCAB)
        for _, answers in turns:
            firsts = [max(places(answer, text).tolist()) for answer in answers]
            if len(answers) > 1 and all(len(places(answer, text)) == 1 for answer in answers):
                assert firsts == sorted(firsts)
                several += 1
    assert several > 20


def test_every_relation_can_be_asked_in_other_words():
    kinds = {relation.hole for relation in made.RELATIONS}
    assert len(made.RELATIONS) >= 30 and len(kinds) >= 10
    for relation in made.RELATIONS:
        assert all("{" + relation.hole + "}" not in question for question in relation.questions)
        assert len(relation.statements) >= 2 and len(relation.questions) >= 2


def test_a_blanked_sentence_asks_for_what_the_text_still_says():
    text, kinds = ids(article("Lima") * 2), {"kept": 0, "cut": 0, "gone": 0}
    for seed in range(40):
        left, turns = clozes(text, random.Random(seed), VOCAB)
        assert len(left) <= len(text)
        for _, answer in turns:
            assert answer is None or occurs(answer, left)
            kinds["gone" if answer is None else "kept" if len(left) == len(text) else "cut"] += 1
    assert kinds["cut"] > 10


def test_a_name_is_exchanged_whole_and_everywhere():
    old, new = ids(" Anna"), ids(" Boris")
    assert (
        swapped(ids("There Anna met Anna and Annabel."), [(old, new)], VOCAB).tolist()
        == ids("There Boris met Boris and Annabel.").tolist()
    )


def test_a_parcel_comes_out_as_it_went_in(tmp_path):
    corpus = Corpus(make_corpus(tmp_path), CORPUS)
    towns = [part for part in corpus.parts if part.kind == "wiki"]
    text = towns[0].tokens[towns[0].starts[1] : towns[0].ends[1]]
    assert TOKENIZER.decode(text.tolist()) == article(ELSEWHERE[1])


def test_long_texts_are_stretches_of_one_document(tmp_path):
    corpus, pick = Corpus(make_corpus(tmp_path), CORPUS), random.Random(1)
    book = next(part for part in corpus.parts if part.kind == "books").tokens.tobytes()
    for _ in range(10):
        _, text = corpus.draw(pick, 12000, prose=True, least=12000)
        assert len(text) == 12000 and text.tobytes() in book


def test_kinds_are_drawn_by_their_weights(tmp_path):
    weights = {"wiki": 0.1, "books": 0.2, "docs": 0.3, "code": 0.4}
    corpus, pick = Corpus(make_corpus(tmp_path), weights), random.Random(1)
    drawn = [corpus.choose(pick, 1, prose=False).kind for _ in range(4000)]
    assert all(abs(drawn.count(kind) / 4000 - share) < 0.04 for kind, share in weights.items())


@pytest.fixture
def pack(tmp_path, monkeypatch):
    """A training pack of two questions: the real one is not part of the repository."""
    questions = [{"title": "Asked_About", "split": "valid"}, {"title": "Learnt_From", "split": "train"}]
    (tmp_path / "qa").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in questions).encode()
    (tmp_path / "qa/squad.jsonl.zst").write_bytes(zstandard.compress(lines))
    monkeypatch.setattr(corpus, "PACK", tmp_path)
    corpus.asked_titles.cache_clear()
    yield
    corpus.asked_titles.cache_clear()


def test_books_and_asked_articles_are_held_out_and_most_texts_are_not(pack):
    assert held_out({"id": "book-0130", "title": "The Wonderful Wizard of Oz"})
    assert held_out({"id": "wiki-1", "title": "Asked about"}) and not held_out({"id": "wiki-1", "title": "Learnt from"})
    ordinary = [{"id": f"wiki-{n}", "title": "Nothing asked"} for n in range(2000)]
    assert 0 < sum(map(held_out, ordinary)) < 40
    assert {parcel_of(row) for row in ordinary} == set(range(PARCELS))
