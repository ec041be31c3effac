"""Words to fill templates with: names, things, codes, and names nobody has."""

import random

from lab.vocab import Vocabulary

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
TRADES = """
baker carpenter teacher surgeon sailor lawyer painter miller nurse clerk tailor farmer judge printer
""".split()  # noqa: SIM905
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
FRONTS = "b br c d dr f g h j k kr l m n p r s st t tr v w z".split()  # noqa: SIM905
MIDDLES = "a e i o u ai ea or an el".split()  # noqa: SIM905
BACKS = "n r l s th nd rt mo vik la ria den ton by".split()  # noqa: SIM905


def coined(pick: random.Random) -> str:
    """A name that stands in no text."""
    first = pick.choice(FRONTS) + pick.choice(MIDDLES)
    return (first + pick.choice(FRONTS) + pick.choice(MIDDLES) + pick.choice(BACKS)).capitalize()


def plain_word(pick: random.Random, vocab: Vocabulary) -> str:
    return vocab.tokenizer.decode([int(vocab.plain[pick.randrange(len(vocab.plain))])]).strip()


def capital_word(pick: random.Random, vocab: Vocabulary) -> str:
    return vocab.tokenizer.decode([int(vocab.names[pick.randrange(len(vocab.names))])]).strip()


def somebody(pick: random.Random, vocab: Vocabulary) -> str:
    first = pick.choice([pick.choice(PEOPLE), pick.choice(PEOPLE), coined(pick)])
    second = pick.choice(["", "", " " + coined(pick), " " + capital_word(pick, vocab)])
    return first + second


def somewhere(pick: random.Random, vocab: Vocabulary) -> str:
    return pick.choice([pick.choice(PLACES), pick.choice(PLACES), coined(pick), capital_word(pick, vocab)])


def something(pick: random.Random, vocab: Vocabulary) -> str:
    first = pick.choice(["", "", plain_word(pick, vocab) + " ", plain_word(pick, vocab) + "-"])
    return first + pick.choice([*THINGS, plain_word(pick, vocab)])


def digits(pick: random.Random, most: int = 8) -> str:
    return str(pick.randrange(10 ** pick.randrange(1, most)))


def code(pick: random.Random, vocab: Vocabulary) -> str:
    letters = "".join(pick.choices("ABCDEFGHKLMNPQRSTUVWXYZ", k=2))
    return pick.choice(
        [
            f"{plain_word(pick, vocab)}-{digits(pick)}",
            f"{letters}-{digits(pick, 5)}-{digits(pick, 4)}",
            f"{digits(pick, 3)}.{digits(pick, 3)}.{digits(pick, 3)}",
            "".join(pick.choices("0123456789abcdef", k=8)),
        ]
    )


def fillers(pick: random.Random, vocab: Vocabulary) -> dict[str, str]:
    """One draw for every hole that a template may have."""
    phrase = " ".join([plain_word(pick, vocab) for _ in range(pick.randrange(2, 6))])
    return {
        "who": somebody(pick, vocab),
        "friend": somebody(pick, vocab),
        "place": somewhere(pick, vocab),
        "thing": something(pick, vocab),
        "colour": pick.choice(COLOURS),
        "trade": pick.choice(TRADES),
        "number": digits(pick),
        "word": "".join(plain_word(pick, vocab) for _ in range(pick.choice([1, 1, 2]))),
        "year": str(pick.randrange(1500, 2030)),
        "hour": str(pick.randrange(1, 25)),
        "phrase": pick.choice([pick.choice(PHRASES), phrase]),
        "key": code(pick, vocab),
    }
