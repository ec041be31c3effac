"""Texts with planted facts against a brute-force reader of them, and the hashes of thirteen words against sets."""

import random
import re
from pathlib import Path

import pytest

from lab.eval import planted
from lab.eval.leak import RUN, hashes
from lab.eval.planted import GIVEN, KEYED, SHARED, filler, multikey, multivalue, plant, singles, variables

ROOT = Path(__file__).parents[2]
TEXTS = [
    " ".join(f"Sentence {k} of text {n} tells of a walk by the river, and of nothing else." for k in range(40))
    for n in range(12)
]


@pytest.mark.parametrize("seed", range(20))
def test_a_filler_has_the_words_asked_for(seed: int) -> None:
    text = filler(TEXTS, 1_000, random.Random(seed))
    assert len(text.split()) == 1_000
    assert all(piece in "\n\n".join(TEXTS) for piece in text.split("\n\n"))
    with pytest.raises(ValueError, match="held-out"):
        filler(TEXTS, 10**6, random.Random(seed))


@pytest.mark.parametrize("seed", range(20))
def test_every_fact_stands_once_at_its_depth_behind_a_sentence(seed: int) -> None:
    pick = random.Random(seed)
    text = filler(TEXTS, 3_000, pick)
    task = singles([planted.fact(n, pick) for n in range(len(planted.FACTS))], pick)
    said, asked = planted.planted(text, {"one": task}, pick)
    for sentence, one in zip(task.sentences, asked["one"], strict=True):
        assert said.count(sentence) == 1
        at = said.index(sentence)
        assert abs(100 * at / len(said) - one.depth) < 4
        assert at == 0 or said[:at].rstrip()[-1] in ".\n" or not said[:at].strip()
        assert one.wanted[0] in sentence
    left = said
    for sentence in task.sentences:
        left = left.replace(f" {sentence}", "")
    assert left == text


@pytest.mark.parametrize("seed", range(20))
def test_questions_of_a_text_have_one_answer(seed: int) -> None:
    pick = random.Random(seed)
    task = singles([planted.fact(n, pick) for n in range(len(planted.FACTS))], pick)
    assert len({q for q, _, _ in task.asked}) == len(planted.FACTS)


def pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+?)", re.escape(template)) + "$")


@pytest.mark.parametrize("seed", range(20))
def test_keys_and_values_by_reading_every_sentence(seed: int) -> None:
    pick = random.Random(seed)
    task = multikey(pick)
    table = [pattern(KEYED[0]).match(s).groupdict() for s in task.sentences]
    assert len({row["key"] for row in table}) == len(table) == 32
    for question, wanted, n in task.asked:
        assert [row["number"] for row in table if KEYED[1].format(key=row["key"]) == question] == list(wanted)
        assert wanted[0] in task.sentences[n]
    task = multivalue(pick)
    rows = [pattern(SHARED[0]).match(s).groupdict() for s in task.sentences]
    for question, wanted, n in task.asked:
        assert [row["number"] for row in rows if SHARED[1].format(key=row["key"]) == question] == list(wanted)
        assert len(wanted) == 4 and wanted[0] in task.sentences[n]


@pytest.mark.parametrize("seed", range(20))
def test_chains_resolve(seed: int) -> None:
    which, value = variables(random.Random(seed))
    stands: dict[str, str] = {}
    for sentence in which.sentences:  # in order: a name is given before it is copied
        if found := re.fullmatch(
            re.escape(GIVEN).replace(r"\{name\}", "(.+)").replace(r"\{number\}", "(.+)"), sentence
        ):
            stands[found[1]] = found[2]
        else:
            name, other = re.fullmatch(r"Here (\w+) stands for the same as (\w+)\.", sentence).groups()
            stands[name] = stands[other]
    assert len(stands) == 20
    for question, wanted, _ in which.asked:
        number = re.search(r"\d+", question)[0]
        assert {name for name, one in stands.items() if one == number} == set(wanted)
    for question, wanted, _ in value.asked:
        assert stands[re.search(r"does (\w+) stand", question)[1]] == wanted[0]


def test_the_sentences_are_not_trainings() -> None:
    """No run of five words of a wording is in the files that training's wordings stand in."""
    sources = [ROOT / "lab" / name for name in ("made.py", "facts.txt", "asking.py", "words.py")]
    trained = " ".join(re.sub(r"{\w+}", "_", path.read_text()) for path in sources if path.exists())
    known = set(runs(trained.split()))
    wordings = [w for one in planted.FACTS for w in one[:2]] + [*KEYED, *SHARED, GIVEN, planted.COPIED]
    shared = {run for w in wordings for run in runs(re.sub(r"{\w+}", "_", w).split()) if run in known}
    assert not shared


def runs(words: list[str]) -> list[tuple[str, ...]]:
    return [tuple(words[n : n + 5]) for n in range(len(words) - 4)]


def test_a_sentence_goes_behind_the_last_one_before_its_depth() -> None:
    assert (
        plant("One is here. Two is here. Three is here.", [(50, "X.")]) == "One is here. X. Two is here. Three is here."
    )
    assert plant("One. Two.", [(0, "X."), (0, "Y.")]) == " X. Y.One. Two."


def test_equal_runs_have_equal_hashes_and_others_do_not() -> None:
    pick = random.Random(5)
    words = [pick.choice(["Käse", "a_b", "x1", "the", "of", "ÄRGER", "über", "Löwe"]) for _ in range(5_000)]
    text = "".join(w + pick.choice([" ", ", ", "\n", " — ", '" ']) for w in words)
    named = [w.lower() for w in words]
    expected = [tuple(named[n : n + RUN]) for n in range(len(named) - RUN + 1)]
    found = hashes(text).tolist()
    assert len(found) == len(expected)
    assert len(set(zip(found, expected, strict=True))) == len(set(found)) == len(set(expected))
    assert hashes("only a few words").size == 0
    again = hashes("elsewhere, " + " ".join(words[100:140])).tolist()
    assert again[1:] == found[100 : 100 + 40 - RUN + 1]
