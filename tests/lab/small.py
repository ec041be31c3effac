"""A small world to draw from: towns, each with an article of some paragraphs, questions, summaries and functions."""

import random
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from lab.corpus import KINDS, Corpus
from lab.parcel import unpack, write
from lab.plan import CORPUS
from lab.render import Renderer
from lab.spans import quote
from lab.stored import Tables
from lab.tables import QA_SOURCES, Texts
from lab.vocab import Vocabulary

TOKENIZER = Tokenizer.from_file(str(Path(__file__).parents[2] / "lab/model/tokenizer.json"))
VOCAB = Vocabulary(TOKENIZER)
TOWNS = "Lisbon Oslo Cairo Lima Kyoto Dublin Prague Tunis Havana Riga Quito Geneva".split()  # noqa: SIM905
ELSEWHERE = "Bergen Dakar Hanoi Jakarta Manila Nairobi Vienna Zagreb Ankara Seville".split()  # noqa: SIM905
PEOPLE = "Anna Boris Clara David Emil Fatima George Helen Ivan Julia Karim Laura".split()  # noqa: SIM905
LINES = [  # sentence, question, which word is the answer; {n} is the paragraph's number
    ("The harbour number {n} of {t} was built by {p} in the year {y}.", "Who built harbour {n} of {t}?", "{p}"),
    ("In {y} the merchant {p} gave {t} its tower number {n} of red stone.", "When did {t} get tower {n}?", "{y}"),
    ("Ship {n} from {t} carried salted fish to {o} every spring.", "Where did ship {n} of {t} go?", "{o}"),
    ("{p} wrote volume {n} about the gardens of {t}.", "Who wrote volume {n} about {t}?", "{p}"),
    ("The library of {t} owes its letter {n} to {p}.", "To whom does {t} owe letter {n}?", "{p}"),
    ("Railway {n} between {t} and {o} was opened in {y}.", "Which town has railway {n} to {t}?", "{o}"),
]


def paragraph(town: str, number: int) -> tuple[str, list[tuple[str, str]]]:
    """(text, (question, answer with the space before it)) of a town's paragraph."""
    pick, text, asked = random.Random(f"{town}{number}"), "", []
    for line, question, hole in LINES[number % 3 :: 2]:
        words = {
            "n": str(number),
            "t": town,
            "o": pick.choice([t for t in TOWNS if t != town]),
            "p": pick.choice(PEOPLE),
            "y": str(pick.randrange(1500, 1990)),
        }
        text += (" " if text else "") + line.format(**words)
        asked.append((question.format(**words), hole.format(**words)))
    spots = [(q, text.rindex(a), a) for q, a in asked if text.count(a) == 1]
    return text, [(q, quote(text, at, len(a))) for q, at, a in spots if text[at - 1 : at] == " "]


def article(town: str) -> str:
    return f"{town}\n\n" + "\n\n".join(paragraph(town, n)[0] for n in range(12))


def make_tables(out: Path) -> Path:
    texts, qa, summaries, find = Texts(TOKENIZER), [], [], []
    for number, town in enumerate(TOWNS):
        for n in range(6):
            text, asked = paragraph(town, n)
            source = QA_SOURCES.index(("squad", "fairytaleqa", "wiki_templates")[number % 3])
            qa += [[texts.add(text), texts.add(q), texts.add(a), source, number] for q, a in asked]
        first = article(town).split("\n\n")[1].split(". ")[0] + "."
        summaries.append([texts.add(article(town)), -1, texts.add(first), -1, -1, -1])
        for n in range(4):
            line = f"def {town.lower()}_{n}(self):"
            code = f"{town}/ports.py\n{line}\n    return self.ports[{n}]\n"
            find.append([texts.add(f"The port number {n} of {town}"), texts.add(code), texts.add(line), number % 3])
    out.mkdir(parents=True, exist_ok=True)
    arrays = {"qa": qa, "summaries": summaries, "find": find}
    for name, array in ({k: np.array(v, np.int32) for k, v in arrays.items()} | texts.arrays()).items():
        np.save(out / f"{name}.npy", array)
    return out


def make_corpus(out: Path) -> Path:
    """One parcel, about other towns: articles, a book of all of them four times over, a code file for each."""
    whole = "\n\n".join(article(town) for town in ELSEWHERE)
    texts = {
        "wiki": [article(town) for town in ELSEWHERE],
        "books": [whole * 4],
        "docs": [whole],
        "code": [f"{town}.py\ndef port(n):\n    return {n}\n" * 20 for n, town in enumerate(ELSEWHERE)],
    }
    out.mkdir(parents=True, exist_ok=True)
    write({kind: [np.array(TOKENIZER.encode(t).ids, np.uint16) for t in texts[kind]] for kind in KINDS}, out / "0.xz")
    unpack(out / "0.xz", out / "corpus")
    return out / "corpus"


def make_renderer(folder: Path, seed: int = 1) -> Renderer:
    tables, corpus = Tables(make_tables(folder / "tables")), Corpus(make_corpus(folder), CORPUS)
    return Renderer(tables, corpus, VOCAB, seed, {"squad": 1.0, "fairytaleqa": 1.0, "wiki_templates": 1.0})
