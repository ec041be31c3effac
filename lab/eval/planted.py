"""Texts with facts planted in them. The sentences are other ones than those of training (lab/made.py).

A text is running words of articles that training left out, with a sentence put behind one of its own at each depth.
"""

import random
import re
import string
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from services.agent.sentences import sentences

PEOPLE = """Agnes Bertil Chidi Dagmar Emre Flora Gunnar Hedda Ines Jovan Katja Ludovic Mireille Nikolai Odile Pavel
Ragna Silvio Tomasz Yolanda""".split()  # noqa: SIM905
PLACES = """Aarhus Bruges Cusco Dresden Esbjerg Faro Ghent Halifax Izmir Jaipur Kazan Lviv Minsk Nantes Odense Porto
Quebec Ravenna Salzburg Trieste Utrecht Varna Wroclaw Yerevan""".split()  # noqa: SIM905
THINGS = (
    *("violet-backed mandolin", "ivory chess clock", "walnut writing desk", "brass sextant", "tin music box"),
    *("copper weather vane", "cracked hourglass", "velvet theatre mask", "marble inkwell", "enamel teapot"),
)
CARGO = (
    *("cork and candle wax", "dried apricots", "church bells", "window glass", "salted herring"),
    *("printing paper", "wool blankets", "raw amber"),
)
SHIPS = "Gannet", "Saint Olga", "Halcyon", "Blue Petrel", "Constance"
NICKS = "Old Badger", "The Lamplighter", "Captain Thimble", "Uncle Sparrow", "Miss Quill"
FACTS = [  # sentence, question, which hole is the answer
    (
        "Nobody at the {place} depot may lift the barrier before the bell has rung {few} times.",
        "How many times must the bell ring before the barrier of the {place} depot may be lifted?",
        "few",
    ),
    (
        "Three of us counted {number} swallows above the {place} granary.",
        "How many swallows were counted above the {place} granary?",
        "number",
    ),
    (
        "According to the harbour log, the {ship} carried {cargo} that night.",
        "According to the harbour log, what did the {ship} carry?",
        "cargo",
    ),
    ("{who} will sing in row {few} of the choir.", "In which row of the choir will {who} sing?", "few"),
    (
        "The auction catalogue lists the {thing} as lot {number}.",
        "As which lot is the {thing} listed in the auction catalogue?",
        "number",
    ),
    (
        "The chess game between {who} and {friend} was over after {few} moves.",
        "After how many moves was the chess game between {who} and {friend} over?",
        "few",
    ),
    (
        "In the soup of Aunt {who}, the lentils simmer for {few} minutes.",
        "For how many minutes do the lentils simmer in Aunt {who}'s soup?",
        "few",
    ),
    (
        "The grey van parked outside the {place} bakery has the licence plate {plate}.",
        "What is the licence plate of the grey van outside the {place} bakery?",
        "plate",
    ),
    ("{who} signs every letter to the editor as {nick}.", "How does {who} sign letters to the editor?", "nick"),
    (
        "Whoever asks for the {thing} will be sent to {friend}, the caretaker.",
        "To whom is somebody sent who asks for the {thing}?",
        "friend",
    ),
]
KEYED = "The registry lists the {key} under {number}.", "Under which number does the registry list the {key}?"
SHARED = ("One of the lockers that {key} rents has the number {number}.", "Which locker numbers does {key} rent?")
GIVEN, COPIED = "In this scheme, {name} stands for {number}.", "Here {name} stands for the same as {other}."
WHICH, VALUE = "Which letters stand for {number}?", "For what number does {name} stand?"


@dataclass(frozen=True)
class Asked:
    question: str
    wanted: tuple[str, ...]  # all of them are to be said
    depth: int  # per cent of the text before the (first) sentence


@dataclass(frozen=True)
class Task:
    """Sentences in the order in which the text has them, and (question, wanted, number of the first sentence)."""

    sentences: list[str]
    asked: Sequence[tuple[str, tuple[str, ...], int]]


def filler(texts: Sequence[str], count: int, pick: random.Random) -> str:
    """`count` words of running text: whole texts in random order, the last one cut. ValueError when there are fewer."""
    words, kept = 0, []
    for text in pick.sample(list(texts), len(texts)):
        ends = [m.end() for m in re.finditer(r"\S+", text)][: count - words]
        kept.append(text[: ends[-1]] if ends else "")
        words += len(ends)
        if words == count:
            return "\n\n".join(kept)
    raise ValueError(f"the held-out texts have {words} words and {count} were asked for: fetch the whole corpus")


def plant(text: str, facts: Sequence[tuple[float, str]]) -> str:
    """The text with each (depth in per cent, sentence) put behind the sentence that ends last before that depth."""
    ends = [0, *(b for _, b in sentences(text))]
    spots = sorted((ends[bisect_right(ends, depth * len(text) / 100) - 1], depth, words) for depth, words in facts)
    cuts = [0, *(at for at, _, _ in spots), len(text)]
    pieces = [text[a:b] for a, b in pairwise(cuts)]
    return pieces[0] + "".join(f" {words}{piece}" for (_, _, words), piece in zip(spots, pieces[1:], strict=True))


def fact(number: int, pick: random.Random) -> tuple[str, str, str]:
    """(sentence, question, answer) of a kind."""
    sentence, question, hole = FACTS[number % len(FACTS)]
    who, friend = pick.sample(PEOPLE, 2)
    values = {
        "who": who,
        "friend": friend,
        "place": pick.choice(PLACES),
        "thing": pick.choice(THINGS),
        "cargo": pick.choice(CARGO),
        "ship": pick.choice(SHIPS),
        "few": str(pick.randrange(3, 60)),
        "number": str(pick.randrange(1000, 100000)),
        "plate": "".join(pick.choices(string.ascii_uppercase, k=3)) + f" {pick.randrange(100, 1000)}",
        "nick": pick.choice(NICKS),
    }
    return sentence.format(**values), question.format(**values), values[hole]


def keys(count: int, pick: random.Random) -> list[str]:
    """Unlike one another in one word or two."""
    first = "amber birch cobalt dusty eastern ferrous gilded hollow".split()  # noqa: SIM905
    second = "barge crane dynamo elevator ferry gondola harvester iceboat".split()  # noqa: SIM905
    return [f"{a} {b}" for a, b in pick.sample([(a, b) for a in first for b in second], count)]


def numbers(count: int, pick: random.Random) -> list[str]:
    return [str(n) for n in pick.sample(range(100_000, 1_000_000), count)]


def multikey(pick: random.Random, count: int = 32, ask: int = 8) -> Task:
    """One kind of fact about many keys; some of them are asked for."""
    named = list(zip(keys(count, pick), numbers(count, pick), strict=True))
    said = [KEYED[0].format(key=key, number=number) for key, number in named]
    return Task(said, [(KEYED[1].format(key=named[n][0]), (named[n][1],), n) for n in pick.sample(range(count), ask)])


def multivalue(pick: random.Random, people: int = 4, values: int = 4) -> Task:
    """Several values of one key, those of different keys in turn."""
    owners, drawn = pick.sample(PEOPLE, people) * values, numbers(people * values, pick)
    said = [SHARED[0].format(key=who, number=number) for who, number in zip(owners, drawn, strict=True)]
    return Task(said, [(SHARED[1].format(key=owners[n]), tuple(drawn[n::people]), n) for n in range(people)])


def variables(pick: random.Random, chains: int = 4, hops: int = 4) -> tuple[Task, Task]:
    """Chains of names that stand for one another: which stand for a number, and for what number the last one stands."""
    names = ["".join(pick.sample(string.ascii_uppercase, 3)) for _ in range(chains * (hops + 1))]
    if len(set(names)) < len(names):
        return variables(pick, chains, hops)
    drawn = numbers(chains, pick)
    said = [GIVEN.format(name=name, number=number) for name, number in zip(names, drawn, strict=False)]
    said += [COPIED.format(name=new, other=old) for old, new in zip(names, names[chains:], strict=False)]
    which = [(WHICH.format(number=drawn[n]), tuple(names[n::chains]), n) for n in range(chains)]
    value = [(VALUE.format(name=names[n - chains]), (drawn[n],), n) for n in range(chains)]
    return Task(said, which), Task([], value)


def singles(drawn: Sequence[tuple[str, str, str]], pick: random.Random) -> Task:
    """Facts of unlike kinds: (sentence, question, answer) of each."""
    order = pick.sample(list(drawn), len(drawn))
    return Task([one[0] for one in order], [(one[1], (one[2].strip(),), n) for n, one in enumerate(order)])


def planted(text: str, tasks: dict[str, Task], pick: random.Random) -> tuple[str, dict[str, list[Asked]]]:
    """The text with every task's sentences spread evenly over it, jittered, and what is asked by task's name."""
    facts: list[tuple[float, str]] = []
    asked: dict[str, list[Asked]] = {}
    for name, task in tasks.items():
        step = 100 / max(1, len(task.sentences))
        depths = [step * (n + pick.uniform(0.25, 0.75)) for n in range(len(task.sentences))]
        facts += zip(depths, task.sentences, strict=True)
        asked[name] = [Asked(q, wanted, round(depths[n]) if depths else 0) for q, wanted, n in task.asked]
    return plant(text, facts), asked
