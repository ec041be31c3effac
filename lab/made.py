"""Tasks that cost no rows: facts planted in text, key-value lists, blanked sentences, recitation.

Each function returns the text that is read and the questions about it: (question, answer) in tokens, answer None where
the text does not say.
"""

import itertools
import random

import numpy as np

from lab.vocab import Vocabulary

Tokens = np.ndarray
Turn = tuple[Tokens, Tokens | None]

PEOPLE = """
Anna Boris Clara David Emil Fatima George Helen Ivan Julia Karim Laura Miguel Nadia Oscar Priya Quentin Rosa
Stefan Tara Umar Vera Walter Xenia Yusuf Zoe Alice Bruno Carmen Dmitri Elena Felix Greta Hugo Ingrid Jonas
Kenji Lena Marcus Nora Otto Paula Rafael Sofia Thomas Ursula Victor Wendy Daniel Martha Samuel Edith Holmes
Watson Dorothy
""".split()  # noqa: SIM905
PLACES = """
Lisbon Oslo Cairo Lima Kyoto Dublin Prague Tunis Havana Riga Quito Delhi Boston Geneva Naples Seville Tbilisi
Vienna Warsaw Zagreb Ankara Bergen Dakar Hanoi Jakarta Kiev London Manila Nairobi Paris Rome Sofia Tokyo
Sydney
""".split()  # noqa: SIM905
THINGS = """
lantern ledger compass engine garden mirror violin harbour library museum tower bridge kettle wagon clock
orchard cellar telescope notebook parcel statue kitchen station piano basket ladder curtain anchor furnace
barrel server cluster pipeline archive router database backup printer vault locker gate safe account project
""".split()  # noqa: SIM905
COLOURS = """
red blue green black white yellow purple orange brown grey silver golden crimson turquoise
""".split()  # noqa: SIM905
TEMPLATES = [  # fact, question
    ("The secret code of {who} is {number}.", "What is the secret code of {who}?"),
    ("The special magic number for {thing} is {number}.", "What is the special magic number for {thing}?"),
    ("The password of the {thing} is {word}.", "What is the password of the {thing}?"),
    ("{who} keeps the {thing} in {place}.", "Where does {who} keep the {thing}?", "place"),
    ("The {thing} of {who} is {colour}.", "What colour is the {thing} of {who}?"),
    ("{who} paid {number} crowns for the {thing}.", "How many crowns did {who} pay for the {thing}?"),
    ("The {colour} {thing} belongs to {who}.", "Who owns the {colour} {thing}?", "who"),
    ("{who} was born in {place} in the year {year}.", "In what year was {who} born?"),
    ("{who} was born in {place} in the year {year}.", "Where was {who} born?", "place"),
    ("The meeting in {place} begins at {hour} o'clock.", "At what hour does the meeting in {place} begin?"),
    (
        "The access key for the {thing} in {place} is {word}-{number}.",
        "What is the access key for the {thing} in {place}?",
        "key",
    ),
    ("Remember that the best thing to do in {place} is to {phrase}.", "What is the best thing to do in {place}?"),
    ("The default timeout of the {thing} is {number} milliseconds.", "What is the default timeout of the {thing}?"),
    ("{who} lent the {thing} to {friend}.", "To whom did {who} lend the {thing}?"),
    ('The favourite word of {who} is "{word}".', "What is the favourite word of {who}?"),
]
PHRASES = [
    "eat a sandwich in the park",
    "walk along the river at dawn",
    "visit the old fish market",
    "climb the church tower",
    "listen to the street musicians",
    "take the night ferry",
    "read under the plane trees",
    "buy figs from the sailors",
]
HOLES = {"number", "word", "place", "colour", "who", "year", "hour", "phrase", "friend"}


def fillers(pick: random.Random, vocab: Vocabulary) -> dict[str, str]:
    word = "".join(
        vocab.tokenizer.decode([int(vocab.plain[pick.randrange(len(vocab.plain))])]).strip()
        for _ in range(pick.choice([1, 1, 2]))
    )
    return {
        "who": pick.choice(PEOPLE),
        "friend": pick.choice(PEOPLE),
        "place": pick.choice(PLACES),
        "thing": pick.choice(THINGS),
        "colour": pick.choice(COLOURS),
        "number": str(pick.randrange(10 ** pick.randrange(1, 7))),
        "word": word,
        "year": str(pick.randrange(1500, 2030)),
        "hour": str(pick.randrange(1, 25)),
        "phrase": pick.choice(PHRASES),
    }


def fact(pick: random.Random, vocab: Vocabulary) -> tuple[str, str, str]:
    """(sentence, question, answer with the space before it)."""
    template, question, *hole = pick.choice(TEMPLATES)
    values = fillers(pick, vocab)
    values["key"] = f"{values['word']}-{values['number']}"
    asked = (
        hole[0]
        if hole
        else next(
            h for h in ("number", "word", "year", "hour", "phrase", "friend", "colour") if "{" + h + "}" in template
        )
    )
    answer = values[asked]
    sentence = template.format(**values)
    return sentence, question.format(**values), (" " if " " + answer in sentence else "") + answer


def sentence_starts(tokens: Tokens, vocab: Vocabulary) -> np.ndarray:
    """Positions right after the end of a sentence."""
    return np.flatnonzero(vocab.stop[tokens[:-1]] | vocab.newline[tokens[:-1]]) + 1


def plant(filler: Tokens, sentences: list[Tokens], pick: random.Random, vocab: Vocabulary) -> Tokens:
    """The filler with each sentence put between two of its own, at random depth."""
    ends = sentence_starts(filler, vocab)
    spots = sorted(pick.choice(ends) if len(ends) else pick.randrange(len(filler)) for _ in sentences)
    pieces, last = [], 0
    for spot, sentence in zip(spots, sentences, strict=True):
        pieces += [filler[last:spot], sentence]
        last = spot
    return np.concatenate([*pieces, filler[last:]])


def needles(filler: Tokens, pick: random.Random, vocab: Vocabulary, most: int = 6) -> tuple[Tokens, list[Turn]]:
    """One to six facts planted in the text; some questions are about facts that are not there."""
    facts = {
        question: (sentence, answer)
        for sentence, question, answer in (fact(pick, vocab) for _ in range(pick.randrange(1, most + 1)))
    }
    absent = {q: None for _, q, _ in (fact(pick, vocab) for _ in range(2)) if q not in facts}
    text = plant(filler, [vocab.encode(" " + s) for s, _ in facts.values()], pick, vocab)
    turns = [(vocab.encode(q), vocab.encode(a)) for q, (_, a) in facts.items()]
    if absent and pick.random() < 0.3:
        turns.append((vocab.encode(next(iter(absent))), None))
    pick.shuffle(turns)
    return text, turns


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
    keys = [pick.choice(list(table)) for _ in range(min(8, 1 + count // 3))]
    turns: list[Turn] = [(np.array(k, np.uint16), table[k]) for k in dict.fromkeys(keys)]
    absent = tuple(draw(2))
    if absent not in table and pick.random() < 0.2:
        turns.append((np.array(absent, np.uint16), None))
    return np.concatenate(entries), turns


def names_in(tokens: Tokens, vocab: Vocabulary) -> list[tuple[int, int]]:
    """Runs of tokens that spell a name or a number, at most eight tokens long."""
    runs, i, n = [], 1, len(tokens)
    while i < n:
        digit = tokens[i] == vocab.space and i + 1 < n and vocab.digit[tokens[i + 1]]
        if not (digit or vocab.name[tokens[i]]):
            i += 1
            continue
        j = i + 1
        follows = vocab.digit if digit else vocab.tail | vocab.name
        while j < n and follows[tokens[j]]:
            j += 1
        if j - i <= 8 and not vocab.stop[tokens[i - 1]] and not vocab.newline[tokens[i - 1]]:
            runs.append((i, j))
        i = j
    return runs


def asking_word(answer: Tokens, pick: random.Random, vocab: Vocabulary) -> str:
    if vocab.digit[answer[-1]]:
        return (
            pick.choice([" what year", " when"])
            if len(answer) == 5
            else pick.choice([" how many", " what number", " how much"])
        )
    return pick.choice([" what", " who", " which", " where", " ____"])


def thinned(tokens: Tokens, pick: random.Random) -> Tokens:
    """Some tokens left out, as a question in other words would."""
    rate = pick.choice([0, 0, 0.1, 0.2, 0.35])
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


def clozes(passage: Tokens, pick: random.Random, vocab: Vocabulary, most: int = 4) -> tuple[Tokens, list[Turn]]:
    """Sentences of the passage with a name blanked; a sentence may be cut out whose name occurs once more."""
    bounds = [0, *sentence_starts(passage, vocab).tolist(), len(passage)]
    spans = [(a, b) for a, b in itertools.pairwise(bounds) if 8 <= b - a <= 60]
    pick.shuffle(spans)
    turns: list[Turn] = []
    cut = None
    for a, b in spans[:most]:
        runs = names_in(passage[a:b], vocab)
        if runs:
            run = pick.choice(runs)
            answer = passage[a + run[0] : a + run[1]]
            turns.append((blank(passage[a:b], run, pick, vocab), answer))
            if cut is None and occurs(answer, np.concatenate([passage[:a], passage[b:]])) and pick.random() < 0.5:
                cut = (a, b)
    text = passage if cut is None else np.concatenate([passage[: cut[0]], passage[cut[1] :]])
    return text, [t for t in turns if occurs(t[1], text)]


def occurs(needle: Tokens, hay: Tokens) -> bool:
    return needle.tobytes() in hay.tobytes() if len(needle) else False


def recitation(passage: Tokens, pick: random.Random, vocab: Vocabulary) -> tuple[Tokens, list[Turn]]:
    """The beginning of a sentence asks for the whole sentence."""
    bounds = [0, *sentence_starts(passage, vocab).tolist()]
    spans = [(a, b) for a, b in itertools.pairwise(bounds) if 10 <= b - a <= 70]
    pick.shuffle(spans)
    return passage, [
        (np.concatenate([passage[a : a + pick.randrange(3, 7)], vocab.encode(" ...")]), passage[a:b])
        for a, b in spans[:3]
    ]


DEPTHS = (10, 30, 50, 70, 90)  # per cent


def needles_at(
    filler: list[list[int]], length: int, pick: random.Random, tokenizer
) -> tuple[list[int], list[tuple[int, str, str]]]:
    """About `length` tokens of running text with a fact at each depth; (depth, question, answer) of each."""
    vocab = Vocabulary(tokenizer)
    stretch: list[int] = []
    while len(stretch) < length:
        text = pick.choice(filler)
        start = pick.randrange(max(1, len(text) - length))
        stretch += text[start : start + length - len(stretch)]
    facts: dict[str, tuple[str, str]] = {}
    while len(facts) < len(DEPTHS):
        sentence, question, answer = fact(pick, vocab)
        facts[question] = (sentence, answer)
    ends = sentence_starts(np.array(stretch), vocab)
    ids, last = [], 0
    for depth, (sentence, _) in zip(DEPTHS, facts.values(), strict=True):
        spot = int(ends[np.searchsorted(ends, depth * length // 100) - 1]) if len(ends) else depth * length // 100
        ids += [*stretch[last:spot], *vocab.encode(" " + sentence).tolist()]
        last = max(last, spot)
    return ids + stretch[last:], [(d, q, a) for d, (q, (_, a)) in zip(DEPTHS, facts.items(), strict=True)]
