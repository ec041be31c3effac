"""RULER's kinds of task and a search for a function, at any length: facts in running text, then questions.

A fact is `FACT name IS value`, names and values of two words each. Every sample has exactly the tokens asked for.

single     one fact; its value
multikey   a fact for every 64 tokens; the values of four of them
multivalue two names with three values each, in turn; all values of a name, in the order of the text
variables  two chains: a name is a value, a second is the first, a third the second; all names of a value
common     no running text but words at random, four of them ten times as often as others; these four, in any order
function   described functions of the library; the name of the one that is described
text       running text alone: read, not asked
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lab.experiments.longcontext.text import Function, Texts

FACT, IS, ASK, WHICH, COMMON, FIND, SAY, END = range(1, 9)
KEY_EVERY, KEYS_ASKED = 64, 4
NAMES, VALUES = 2, 3
CHAINS, CHAIN = 2, 3
OFTEN, TIMES, SELDOM = 4, 10, 200
Ids = np.ndarray


@dataclass(frozen=True)
class Sample:
    """ids [length]; answers: where each begins and ends in ids; ``unordered``: its tokens are right in any order."""

    ids: Ids
    answers: list[tuple[int, int]]
    unordered: bool = False


@dataclass(frozen=True)
class Source:
    """What samples are drawn from: one part, to train or to test with, of the texts."""

    running: Ids
    functions: Sequence[Function]
    words: Ids

    @classmethod
    def of(cls, texts: Texts, test: bool) -> "Source":
        return cls(texts.running[test], texts.functions[test], texts.words)

    def stretch(self, size: int, pick: np.random.Generator) -> Ids:
        """Running text of ``size`` tokens, from a random place on; the part's end is followed by its beginning."""
        first = pick.integers(len(self.running))
        return self.running.take(np.arange(first, first + size), mode="wrap")

    def pairs(self, count: int, pick: np.random.Generator) -> Ids:
        """``count`` different pairs of words [count,2]."""
        drawn = np.unique(pick.integers(len(self.words), size=(2 * count + 8, 2)), axis=0)
        return self.words[pick.permutation(drawn)[:count]]


def draw(task: str, length: int, source: Source, pick: np.random.Generator) -> Sample:
    return TASKS[task](length, source, pick)


def single(length: int, source: Source, pick: np.random.Generator) -> Sample:
    name, value = source.pairs(2, pick)
    return planted([fact(name, value)], [(question(ASK, name), value)], length, source, pick)


def multikey(length: int, source: Source, pick: np.random.Generator) -> Sample:
    count = max(KEYS_ASKED, length // KEY_EVERY)
    drawn = source.pairs(2 * count, pick)
    names, values = drawn[:count], drawn[count:]
    asked = pick.choice(count, KEYS_ASKED, replace=False)
    facts = [fact(*one) for one in zip(names, values, strict=True)]
    return planted(facts, [(question(ASK, names[n]), values[n]) for n in asked], length, source, pick)


def multivalue(length: int, source: Source, pick: np.random.Generator) -> Sample:
    drawn = source.pairs(NAMES + NAMES * VALUES, pick)
    names, values = drawn[:NAMES], drawn[NAMES:].reshape(NAMES, VALUES, 2)
    facts = [fact(names[n], values[n, i]) for i in range(VALUES) for n in pick.permutation(NAMES)]
    asked = [(question(ASK, names[n]), values[n].reshape(-1)) for n in pick.permutation(NAMES)]
    return planted(facts, asked, length, source, pick)


def variables(length: int, source: Source, pick: np.random.Generator) -> Sample:
    chains = source.pairs(CHAINS * (CHAIN + 1), pick).reshape(CHAINS, CHAIN + 1, 2)  # a value, then names
    facts = [fact(chains[n, i + 1], chains[n, i]) for i in range(CHAIN) for n in pick.permutation(CHAINS)]
    asked = [(question(WHICH, chains[n, 0]), chains[n, 1:].reshape(-1)) for n in pick.permutation(CHAINS)]
    return planted(facts, asked, length, source, pick)


def common(length: int, source: Source, pick: np.random.Generator) -> Sample:
    words = pick.permutation(source.words)[: OFTEN + SELDOM]
    often = words[:OFTEN]
    turn = np.concatenate([np.tile(often, TIMES), words[OFTEN:]])
    end, asked = asking([(question(COMMON, often[:0]), often)])
    size = length - len(end)
    read = pick.permutation(np.resize(turn, size) if size > len(turn) else pick.permutation(turn)[:size])
    return sample(read, end, asked, unordered=True)


def function(length: int, source: Source, pick: np.random.Generator) -> Sample:
    order = pick.permutation(len(source.functions))
    wanted = source.functions[order[0]]
    end, asked = asking([(question(FIND, wanted.description), wanted.name)])
    listed, room = {wanted.name.tobytes(): wanted}, length - len(end) - len(wanted.code)
    for one in (source.functions[n] for n in order[1:]):
        if len(one.code) > room:
            break
        if listed.setdefault(one.name.tobytes(), one) is one:
            room -= len(one.code)
    codes = [one.code for one in pick.permutation(np.array([*listed.values()], object))]
    return sample(np.concatenate([source.stretch(room, pick), *codes]), end, asked)


def text(length: int, source: Source, pick: np.random.Generator) -> Sample:
    return Sample(source.stretch(length, pick), [])


def fact(name: Ids, value: Ids) -> Ids:
    return np.concatenate([[FACT], name, [IS], value])


def question(mark: int, words: Ids) -> Ids:
    return np.concatenate([[mark], words, [SAY]]).astype(np.int64)


def planted(
    facts: Sequence[Ids], asked: Sequence[tuple[Ids, Ids]], length: int, source: Source, pick: np.random.Generator
) -> Sample:
    """The facts in their order at random places of running text, then questions and answers."""
    end, answers = asking(asked)
    size = length - len(end) - sum(map(len, facts))
    if size < 0:
        raise ValueError(f"{length} tokens do not hold {len(facts)} facts and {len(asked)} questions: {-size} more do")
    spots = np.sort(pick.integers(size + 1, size=len(facts)))
    pieces = np.split(source.stretch(size, pick), spots)
    read = [pieces[0], *(part for pair in zip(facts, pieces[1:], strict=True) for part in pair)]
    return sample(np.concatenate(read), end, answers)


def asking(asked: Sequence[tuple[Ids, Ids]]) -> tuple[Ids, list[tuple[int, int]]]:
    """Questions with their answers behind them; where the answers are."""
    parts, answers, at = [], [], 0
    for question, answer in asked:
        at += len(question)
        answers.append((at, at + len(answer)))
        at += len(answer) + 1
        parts += [question, answer, [END]]
    return np.concatenate(parts).astype(np.int64), answers


def sample(read: Ids, end: Ids, answers: list[tuple[int, int]], unordered: bool = False) -> Sample:
    shifted = [(first + len(read), last + len(read)) for first, last in answers]
    return Sample(np.concatenate([read, end]).astype(np.int64), shifted, unordered)


ASKED: dict[str, Callable[[int, Source, np.random.Generator], Sample]] = {
    "single": single,
    "multikey": multikey,
    "multivalue": multivalue,
    "variables": variables,
    "common": common,
    "function": function,
}
TASKS = ASKED | {"text": text}
