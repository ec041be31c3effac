"""Facts planted in text: single ones, one of many keys, several values of a key, values handed on from name to name.

Each task returns the text that is read and the turns about it (question, answer), answer None where the text does not
say. The wordings are in facts.txt, the words in `lab.words`; `lab.eval` measures with wordings of its own.
"""

import itertools
import random
import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab.pieces import Tokens, Turn, occurs
from lab.vocab import Vocabulary
from lab.words import coined, digits, fillers

SEVERAL = [  # statements, questions, the hole that is asked for
    (
        ["One of the magic numbers for {thing} is {number}.", "{number} is a magic number for {thing} as well."],
        ["What are all the magic numbers for {thing}?", "List every magic number for {thing}."],
        "number",
    ),
    (
        ["{friend} is a child of {who}.", "One child of {who} is {friend}.", "{who} is the parent of {friend}."],
        ["Who are the children of {who}?", "Name all children of {who}."],
        "friend",
    ),
    (
        ["{who} once lived in {place}.", "For some years {who} had a house in {place}.", "{place} was home to {who}."],
        ["Where has {who} lived?", "In which places did {who} live?"],
        "place",
    ),
    (
        ["The {thing} opens with {key}.", "{key} is accepted by the {thing}.", "A key of the {thing}: {key}"],
        ["Which keys open the {thing}?", "What are all the keys of the {thing}?"],
        "key",
    ),
    (
        ["{who} owns a {thing}.", "A {thing} is among the things of {who}.", "{who} has kept the {thing}."],
        ["What does {who} own?", "Which things belong to {who}?"],
        "thing",
    ),
]
CHAINS = [  # first statement, next statement, question for one name, question for a value
    ("VAR {a} = {v}", "VAR {b} = VAR {a}", "What is the value of VAR {b}?", "Which variables have the value {v}?"),
    ("{a} = {v}", "{b} = {a}", "What is {b}?", "Find all variables that are {v}."),
    ("Let {a} be {v}.", "Let {b} be equal to {a}.", "What is {b} equal to?", "Which of them equal {v}?"),
    ("{a} := {v};", "{b} := {a};", "{b} = ?", "Everything that equals {v}?"),
    (
        "The safe {a} opens with {v}.",
        "The safe {b} opens like {a}.",
        "What opens safe {b}?",
        "Which safes open with {v}?",
    ),
    ("{a} weighs {v} pounds.", "{b} weighs as much as {a}.", "How much does {b} weigh?", "Who weighs {v} pounds?"),
]


@dataclass(frozen=True)
class Relation:
    hole: str
    statements: list[str]
    questions: list[str]

    def key(self, values: dict[str, str]) -> str:
        """What makes two facts of this relation the same question."""
        return self.questions[0].format(**values)


def relations() -> list[Relation]:
    blocks = (Path(__file__).parent / "facts.txt").read_text().strip().split("\n\n")
    lines = [block.split("\n") for block in blocks]
    return [Relation(hole, said.split(" | "), asked.split(" | ")) for hole, said, asked in lines]


RELATIONS = relations()


def as_read(placed: str, answer: str) -> str:
    """The answer with the one space before it, if it stands so in the text (lab.spans.quote)."""
    return (" " if " " + answer in placed else "") + answer


def state(statement: str, hole: str, values: dict[str, str], pick: random.Random, vocab: Vocabulary):
    """(tokens of the sentence as it will stand in the text, tokens of the answer), or None where they do not fit."""
    placed = pick.choice([" ", " ", "\n\n"]) + statement.format(**values)
    sentence, answer = vocab.encode(placed), vocab.encode(as_read(placed, values[hole]))
    return (sentence, answer) if occurs(answer, sentence) else None


def facts(
    pool: list[Relation], count: int, pick: random.Random, vocab: Vocabulary
) -> list[tuple[Tokens, Tokens, Tokens]]:
    """Up to `count` facts (sentence, question, answer), no two with the same question."""
    found, known = [], set()
    for _ in range(3 * count):
        relation, values = pick.choice(pool), fillers(pick, vocab)
        stated = state(pick.choice(relation.statements), relation.hole, values, pick, vocab)
        if stated and relation.key(values) not in known:
            known.add(relation.key(values))
            found.append((stated[0], vocab.encode(pick.choice(relation.questions).format(**values)), stated[1]))
        if len(found) == count:
            break
    return found


def fact(pick: random.Random, vocab: Vocabulary) -> tuple[str, str, str]:
    """(sentence, question, answer with the space before it) in words."""
    relation, values = pick.choice(RELATIONS), fillers(pick, vocab)
    sentence = pick.choice(relation.statements).format(**values)
    return sentence, pick.choice(relation.questions).format(**values), as_read(" " + sentence, values[relation.hole])


def sentence_starts(tokens: Tokens, vocab: Vocabulary) -> np.ndarray:
    """Positions right after the end of a sentence."""
    ended = vocab.stop[tokens[:-1]] & vocab.opens[tokens[1:]]
    return np.flatnonzero(ended | vocab.newline[tokens[:-1]]) + 1


def plant(filler: Tokens, sentences: list[Tokens], pick: random.Random, vocab: Vocabulary) -> Tokens:
    """The filler with each sentence put between two of its own, at random depth, in the given order."""
    ends = sentence_starts(filler, vocab)
    spots = sorted(int(pick.choice(ends)) if len(ends) else pick.randrange(len(filler)) for _ in sentences)
    pieces, last = [], 0
    for spot, sentence in zip(spots, sentences, strict=True):
        pieces += [filler[last:spot], sentence]
        last = spot
    return np.concatenate([*pieces, filler[last:]])


def asked_of(filler: Tokens, found: list, most: int, absent: float, pick: random.Random, vocab: Vocabulary):
    """All facts but the last planted, some of them asked for; now and then the last, which is not there."""
    (_, stranger, _), *planted = found[::-1]
    text = plant(filler, [sentence for sentence, _, _ in planted], pick, vocab)
    turns: list[Turn] = [(question, answer) for _, question, answer in pick.sample(planted, min(most, len(planted)))]
    if pick.random() < absent:
        turns.insert(pick.randrange(len(turns) + 1), (stranger, None))
    return text, turns


def needles(filler: Tokens, pick: random.Random, vocab: Vocabulary, most: int = 6) -> tuple[Tokens, list[Turn]]:
    """One to six facts of any kind."""
    return asked_of(filler, facts(RELATIONS, pick.randrange(1, most + 1) + 1, pick, vocab), most, 0.3, pick, vocab)


def keys(filler: Tokens, pick: random.Random, vocab: Vocabulary) -> tuple[Tokens, list[Turn]]:
    """Four to sixty-four facts of one kind, which differ in the name asked for."""
    count = min(int(4 * 16 ** pick.random()), max(4, len(filler) // 24))
    return asked_of(filler, facts([pick.choice(RELATIONS)], count + 1, pick, vocab), 8, 0.3, pick, vocab)


def values(filler: Tokens, pick: random.Random, vocab: Vocabulary) -> tuple[Tokens, list[Turn]]:
    """Some names with one to six values each; every value of a name is to be quoted, in the order of the text."""
    statements, questions, hole = pick.choice(SEVERAL)
    sentences, turns, known = [], [], set()
    for _ in range(pick.randrange(1, 5)):
        owner = fillers(pick, vocab)
        key, answers = questions[0].format(**owner), []
        if key in known:
            continue
        known.add(key)
        for _ in range(pick.randrange(1, 7)):
            stated = state(pick.choice(statements), hole, owner | {hole: fillers(pick, vocab)[hole]}, pick, vocab)
            if stated and not any(np.array_equal(stated[1], answer) for answer in answers):
                answers.append(stated[1])
                sentences.append((len(turns), stated[0]))
        turns.append((vocab.encode(pick.choice(questions).format(**owner)), answers))
    sentences = shuffled_within(sentences, pick)
    text = plant(filler, [sentence for _, sentence in sentences], pick, vocab)
    turns = [turn for turn in turns if turn[1]]
    pick.shuffle(turns)
    return text, turns


def shuffled_within(items: list[tuple], pick: random.Random) -> list[tuple]:
    """Mixed, but those with the same first member in the order they had."""
    owners = [item[0] for item in items]
    pick.shuffle(owners)
    lines = {owner: iter([item for item in items if item[0] == owner]) for owner in owners}
    return [next(lines[owner]) for owner in owners]


def track(filler: Tokens, pick: random.Random, vocab: Vocabulary) -> tuple[Tokens, list[Turn]]:
    """Chains of names that hand a value on: what is the value of the last, which names have it?"""
    first, then, of_name, of_value = pick.choice(CHAINS)
    sentences, turns = [], []
    naming = pick.choice([coined, lambda pick: "".join(pick.choices(string.ascii_uppercase, k=3))])
    letters = iter({naming(pick) for _ in range(64)})
    for chain in range(pick.randrange(1, 6)):
        value, names = digits(pick, 7), [next(letters) for _ in range(pick.randrange(1, 7))]
        lines = [first.format(a=names[0], v=value)]
        lines += [then.format(a=a, b=b) for a, b in itertools.pairwise(names)]
        lead = pick.choice([" ", "\n", "\n\n"])
        sentences += [(chain, vocab.encode(lead + line)) for line in lines]
        answer = vocab.encode(as_read(lead + lines[0], value))
        turns += [(vocab.encode(of_name.format(b=name)), answer) for name in pick.sample(names, min(2, len(names)))]
        quotes = [vocab.encode(as_read(lead + line, name)) for line, name in zip(lines, names, strict=True)]
        turns.append((vocab.encode(of_value.format(v=value)), quotes))
    text = plant(filler, [sentence for _, sentence in shuffled_within(sentences, pick)], pick, vocab)
    return text, pick.sample(turns, min(6, len(turns)))


def pairs(size: int, pick: random.Random, vocab: Vocabulary) -> tuple[Tokens, list[Turn]]:
    """A list of keys and values of random tokens (multi-query associative recall)."""
    count = max(2, min(size // 8, 200))
    link, line = (
        vocab.encode(pick.choice([":", " =", " is", " ->", ","])),
        vocab.encode(pick.choice(["\n", ";", ".", "\n\n"])),
    )

    def draw(most):
        return vocab.plain[np.random.randint(len(vocab.plain), size=pick.randrange(1, most + 1))].astype(np.uint16)

    table = {tuple(draw(2)): draw(3) for _ in range(count)}
    entries = [np.concatenate([np.array(k, np.uint16), link, v, line]) for k, v in table.items()]
    chosen = [pick.choice(list(table)) for _ in range(min(8, 1 + count // 3))]
    turns: list[Turn] = [(np.array(k, np.uint16), table[k]) for k in dict.fromkeys(chosen)]
    absent = tuple(draw(2))
    if absent not in table and pick.random() < 0.2:
        turns.append((np.array(absent, np.uint16), None))
    return np.concatenate(entries), turns
