"""Questions that running text asks about itself: sentences with a name or a stretch blanked, and recitation.

Three kinds of blanked sentence. *kept*: it stands in the text; find it. *cut*: it was taken out, but its name stands
elsewhere near words of the question; understand it (recurring spans, Ram et al. 2021, for a causal reader). *gone*: it
was taken out and its name stands nowhere; say so.
"""

import itertools
import random
from collections.abc import Sequence

import numpy as np

from lab.made import sentence_starts
from lab.pieces import Tokens, Turn, occurs, places
from lab.vocab import Vocabulary

CONTENT = 1500  # ids in order of merging: those below are the commonest


def names_in(tokens: Tokens, vocab: Vocabulary) -> list[tuple[int, int]]:
    """Runs of tokens that spell a name or a number, at most eight tokens long."""
    runs, i, n = [], 1, len(tokens)
    starts = vocab.name[tokens] | (tokens == vocab.space)
    for i in np.flatnonzero(starts).tolist():
        if i == 0 or (runs and i < runs[-1][1]):
            continue
        digit = tokens[i] == vocab.space and i + 1 < n and vocab.digit[tokens[i + 1]]
        if not (digit or vocab.name[tokens[i]]):
            continue
        j = i + 1
        follows = vocab.digit if digit else vocab.tail | vocab.name
        while j < n and follows[tokens[j]]:
            j += 1
        if j - i <= 8 and not vocab.stop[tokens[i - 1]] and not vocab.newline[tokens[i - 1]]:
            runs.append((i, j))
    return runs


def stretch_in(tokens: Tokens, pick: random.Random, vocab: Vocabulary) -> list[tuple[int, int]]:
    """A run of two to nine tokens from the beginning of a word to the beginning of another."""
    edges = np.flatnonzero(vocab.word[tokens])[1:]
    if len(edges) < 3:
        return []
    start, end = sorted(pick.sample(range(len(edges)), 2))
    return [(int(edges[start]), int(edges[end]))] if 2 <= edges[end] - edges[start] <= 9 else []


def asking_word(answer: Tokens, pick: random.Random, vocab: Vocabulary) -> str:
    if vocab.digit[answer[-1]]:
        return (
            pick.choice([" what year", " when"])
            if len(answer) == 5
            else pick.choice([" how many", " what number", " how much"])
        )
    return pick.choice([" what", " who", " which", " where", " ____"])


def thinned(tokens: Tokens, pick: random.Random, rates: Sequence[float] = (0, 0, 0.1, 0.2, 0.35)) -> Tokens:
    """Some tokens left out, as a question in other words would."""
    rate = pick.choice(rates)
    return tokens[np.random.random(len(tokens)) >= rate]


def blank(sentence: Tokens, run: tuple[int, int], pick: random.Random, vocab: Vocabulary) -> Tokens:
    """The sentence as a question: a question word where the name stood."""
    start, end = run
    word = asking_word(sentence[start:end], pick, vocab)
    before, after = thinned(sentence[:start], pick), thinned(sentence[end:], pick)
    if len(after) and vocab.stop[after[-1]]:
        after = after[:-1]
    if len(after) > 12 and pick.random() < 0.5:
        after = after[:12]
    front = pick.random() < 0.4  # "Who ... ?": the question word first
    pieces = [vocab.encode(word.strip().capitalize()), before, after] if front else [before, vocab.encode(word), after]
    return np.concatenate([*pieces, vocab.encode("?")])


def sentences_of(text: Tokens, least: int, most: int, vocab: Vocabulary) -> list[tuple[int, int]]:
    bounds = [0, *sentence_starts(text, vocab).tolist(), len(text)]
    return [(a, b) for a, b in itertools.pairwise(bounds) if least <= b - a <= most]


def told(answer: Tokens, hints: Tokens, text: Tokens, reach: int = 48) -> bool:
    """Whether the answer stands in the text within reach of a telling word of the question."""
    telling = hints[hints > CONTENT]
    return any(
        np.isin(telling, text[max(0, at - reach) : at + reach]).any() for at in places(answer, text)[:6].tolist()
    )


def without(text: Tokens, spans: list[tuple[int, int]]) -> Tokens:
    kept, last = [], 0
    for start, end in sorted(spans):
        kept.append(text[last:start])
        last = end
    return np.concatenate([*kept, text[last:]])


def asked_of(
    passage: Tokens, span: tuple[int, int], stay: bool, pick: random.Random, vocab: Vocabulary
) -> tuple[Tokens, Tokens | None] | None:
    """A question made of the sentence and its answer, the text being with or without the sentence; or no good one."""
    a, b = span
    sentence, rest = passage[a:b], np.concatenate([passage[:a], passage[b:]])
    runs = stretch_in(sentence, pick, vocab) if stay and pick.random() < 0.3 else names_in(sentence, vocab)
    if not runs:
        return None
    start, end = run = pick.choice(runs)
    question, answer = blank(sentence, run, pick, vocab), sentence[start:end]
    if stay or told(answer, np.concatenate([sentence[:start], sentence[end:]]), rest):
        return question, answer
    return (question, None) if pick.random() < 0.35 and not occurs(answer, rest) else None


def clozes(
    passage: Tokens, pick: random.Random, vocab: Vocabulary, most: int = 6, kept: float = 0.35
) -> tuple[Tokens, list[Turn]]:
    """Up to `most` blanked sentences; about `kept` of those tried stay in the text, the others are cut or gone."""
    spans = sentences_of(passage, 8, 60, vocab)
    turns: list[Turn] = []
    cut: list[tuple[int, int]] = []
    for span in pick.sample(spans, min(3 * most, len(spans))):
        stay = pick.random() < kept or 2 * len(cut) > len(spans)
        asked = asked_of(passage, span, stay, pick, vocab)
        if asked and len(turns) < most:
            turns.append(asked)
            cut += [] if stay else [span]
    text = without(passage, cut)
    return text, [(question, answer) for question, answer in turns if answer is None or occurs(answer, text)]


def recitation(passage: Tokens, pick: random.Random, vocab: Vocabulary) -> tuple[Tokens, list[Turn]]:
    """The beginning of a sentence asks for the whole sentence."""
    spans = sentences_of(passage, 10, 70, vocab)
    return passage, [
        (np.concatenate([passage[a : a + pick.randrange(3, 7)], vocab.encode(" ...")]), passage[a:b])
        for a, b in pick.sample(spans, min(3, len(spans)))
    ]
