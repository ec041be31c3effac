"""Tasks as training sequences, in the product's own prompt (decision 0001).

A sequence is a list of pieces (tokens, kind): CONTEXT is read, ANSWER is what the model must say.
"""

import random
from pathlib import Path

import numpy as np

from lab import made
from lab.tables import QA_SOURCES
from lab.tokenizer import ANSWER, DOC, END, FILE, FIND, NONE, QUESTION, QUOTE, SUMMARY, UNQUOTE
from lab.vocab import Vocabulary

READ, SAY = 1, 2  # kinds of token: given to the model, to be said by it
Tokens = np.ndarray
Piece = tuple[Tokens, int]


def special(*ids: int) -> Tokens:
    return np.array(ids, np.uint16)


def said(answer: Tokens | None) -> list[Piece]:
    """The answer as a quotation, or that the text does not say."""
    if answer is None:
        return [(special(NONE, END), SAY)]
    return [(special(QUOTE), SAY), (answer, SAY), (special(UNQUOTE, END), SAY)]


def turn(
    question: Tokens, answer: Tokens | None, passages: list[Tokens] = (), mark: int = QUESTION, item: int = DOC
) -> list[Piece]:
    """One question, its passages if any (then the question again), and the answer."""
    pieces = [(special(mark), READ), (question, READ)]
    for passage in passages:
        pieces += [(special(item), READ), (passage, READ)]
    if passages:
        pieces += [(special(mark), READ), (question, READ)]
    return [*pieces, (special(ANSWER), READ), *said(answer)]


def document(tokens: Tokens, mark: int = DOC) -> list[Piece]:
    return [(special(mark), READ), (tokens, READ)]


def joined(pieces: list[Piece]) -> tuple[Tokens, Tokens]:
    """(tokens, kinds) of a whole sequence."""
    tokens = np.concatenate([p for p, _ in pieces])
    kinds = np.concatenate([np.full(len(p), kind, np.uint8) for p, kind in pieces])
    return tokens, kinds


class Tables:
    """The token tables on disk, and who belongs to which context."""

    def __init__(self, folder: Path):
        def load(name):
            return np.load(folder / f"{name}.npy", mmap_mode="r")

        self.tokens, self.offsets = load("tokens"), load("offsets")
        self.qa, self.summaries, self.find = (np.array(load(n)) for n in ("qa", "summaries", "find"))
        self.by_context = groups(self.qa[:, 0])
        self.by_article = {a: np.unique(self.qa[rows, 0]) for a, rows in groups(self.qa[:, 4]).items()}
        self.by_source = {QA_SOURCES[s]: np.unique(self.qa[rows, 0]) for s, rows in groups(self.qa[:, 3]).items()}
        self.by_repo = groups(self.find[:, 3])

    def text(self, number: int) -> Tokens:
        return np.array(self.tokens[self.offsets[number] : self.offsets[number + 1]])


def groups(keys: np.ndarray) -> dict[int, np.ndarray]:
    order = np.argsort(keys, kind="stable")
    values, starts = np.unique(keys[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, starts[1:]), strict=True))


class Renderer:
    """Draws one sequence of a task, at most `limit` tokens long."""

    def __init__(self, tables: Tables, corpus, vocab: Vocabulary, seed: int, sources: dict[str, float]):
        self.tables, self.corpus, self.vocab = tables, corpus, vocab
        self.pick = random.Random(seed)
        self.sources = {s: w for s, w in sources.items() if s in tables.by_source}
        self.blank_line = vocab.encode("\n\n")

    def retune(self, phase) -> None:
        """Take the phase's shares of question sources and of corpus parts."""
        self.sources = {s: w for s, w in phase.questions.items() if s in self.tables.by_source}
        self.corpus.weights = phase.corpus

    def draw(self, task: str, limit: int) -> tuple[Tokens, Tokens]:
        tokens, kinds = joined(getattr(self, task)(limit))
        return tokens[:limit], kinds[:limit]

    # -- text ---------------------------------------------------------------------------------------------------
    def language(self, limit: int) -> list[Piece]:
        mark, text = self.corpus.draw(self.pick, limit - 1)
        return document(text, mark)

    def passage(self, least: int, most: int) -> Tokens:
        size = int(least * (most / least) ** self.pick.random())
        _, text = self.corpus.draw(self.pick, size, prose=True)
        return text

    # -- tasks made of running text -----------------------------------------------------------------------------
    def made(self, text: Tokens, turns: list) -> list[Piece]:
        return [*document(text), *(piece for q, a in turns for piece in turn(q, a))]

    def cloze(self, limit: int) -> list[Piece]:
        return self.made(*made.clozes(self.passage(80, min(limit, 600) - 60), self.pick, self.vocab))

    def recite(self, limit: int) -> list[Piece]:
        return self.made(*made.recitation(self.passage(60, min(limit, 500)), self.pick, self.vocab))

    def recall(self, limit: int) -> list[Piece]:
        size = int(32 * (limit / 2 / 32) ** self.pick.random())
        return self.made(*made.pairs(size, self.pick, self.vocab))

    def needle(self, limit: int) -> list[Piece]:
        room = limit - 260
        size = int(60 * (room / 60) ** self.pick.random())
        filler = [self.passage(size, size)]
        while sum(map(len, filler)) < size * 0.8:  # a short article: put others behind it
            filler.append(self.passage(size, size))
        return self.made(*made.needles(np.concatenate(filler)[:room], self.pick, self.vocab))

    # -- questions with rows ------------------------------------------------------------------------------------
    def context(self) -> int:
        source = self.pick.choices(list(self.sources), list(self.sources.values()))[0]
        return int(self.pick.choice(self.tables.by_source[source]))

    def question(self, context: int) -> tuple[Tokens, Tokens, int]:
        row = self.tables.qa[self.pick.choice(self.tables.by_context[context])]
        return self.tables.text(row[1]), self.tables.text(row[2]), int(row[4])

    def elsewhere(self, articles: set[int]) -> Tokens | None:
        """A question about none of these articles, so that the text does not say; None where none is found."""
        for _ in range(100):
            row = self.tables.qa[self.pick.randrange(len(self.tables.qa))]
            if int(row[4]) not in articles and QA_SOURCES[row[3]] != "qamr":
                return self.tables.text(row[1])
        return None

    def asked(self, context: int, articles: set[int]) -> list[Piece]:
        """A question on the context, or now and then one on another article."""
        question, answer, _ = self.question(context)
        stranger = self.elsewhere(articles) if self.pick.random() < 0.15 else None
        return turn(question, answer) if stranger is None else turn(stranger, None)

    def ask(self, limit: int) -> list[Piece]:
        """A paragraph and a few questions on it, one after another."""
        context = self.context()
        pieces = document(self.tables.text(context))
        article = int(self.tables.qa[self.tables.by_context[context][0], 4])
        for _ in range(self.pick.choice([1, 1, 2, 3, 4])):
            pieces += self.asked(context, {article})
        return pieces

    def others(self, context: int, article: int, count: int, room: int) -> list[int]:
        """Other contexts, half the time of the same article, that fit the room."""
        near = [c for c in self.tables.by_article[article].tolist() if c != context]
        near = self.pick.sample(near, min(len(near), count if self.pick.random() < 0.5 else 0))
        chosen = [*near, *(self.context() for _ in range(count - len(near)))]
        kept = []
        for c in dict.fromkeys(chosen):
            room -= len(self.tables.text(c))
            if c != context and room > 0 and not self.same_title(c, article, near):
                kept.append(c)
        return kept

    def same_title(self, context: int, article: int, near: list[int]) -> bool:
        return context not in near and int(self.tables.qa[self.tables.by_context[context][0], 4]) == article

    def point(self, limit: int) -> list[Piece]:
        """Passages where retrieval points, the question before and after; the whole text read first, or not."""
        context = self.context()
        question, answer, article = self.question(context)
        gold = self.tables.text(context)
        whole = self.pick.random() < 0.4
        room = (limit - len(gold) - 200) // (2 if whole else 1)
        near = self.others(context, article, self.pick.randrange(1, 5), min(room, 1600))
        absent = self.pick.random() < 0.2
        shown = near if absent else [*near, context]
        self.pick.shuffle(shown)
        texts = [self.tables.text(c) for c in shown] or [self.passage(60, 200)]
        start = (
            self.long_text([*shown, *self.others(context, article, 12, room - sum(map(len, texts)))]) if whole else []
        )
        return [*start, *turn(question, None if absent else answer, texts)]

    def long_text(self, contexts: list[int]) -> list[Piece]:
        """One document of many paragraphs."""
        contexts = list(dict.fromkeys(contexts))
        self.pick.shuffle(contexts)
        return document(np.concatenate([t for c in contexts for t in (self.tables.text(c), self.blank_line)]))

    def search(self, limit: int) -> list[Piece]:
        """A long text of many paragraphs, then several questions on it, no passage shown again."""
        size = int(500 * (limit / 500) ** self.pick.random()) - 300
        contexts: list[int] = []
        while size > 0 and len(contexts) < 200:
            context = self.context()
            contexts.append(context)
            size -= len(self.tables.text(context)) + 1
        contexts = contexts[:-1] or contexts
        held = {int(self.tables.qa[self.tables.by_context[c][0], 4]) for c in contexts}
        pieces = self.long_text(contexts)
        for _ in range(self.pick.randrange(1, 6)):
            pieces += self.asked(self.pick.choice(contexts), held)
        return pieces

    # -- summaries and functions --------------------------------------------------------------------------------
    def summarise(self, limit: int) -> list[Piece]:
        row = self.tables.summaries[self.pick.randrange(len(self.tables.summaries))]
        pieces = [*document(self.tables.text(row[0])), (special(SUMMARY), READ)]
        for number in row[2:]:
            if number >= 0:
                pieces += [(special(QUOTE), SAY), (self.tables.text(number), SAY), (special(UNQUOTE), SAY)]
        return [*pieces, (special(END), SAY)]

    def find(self, limit: int) -> list[Piece]:
        """A description and some functions, one of them (mostly) the described."""
        row = self.tables.find[self.pick.randrange(len(self.tables.find))]
        description, code, line = (self.tables.text(n) for n in row[:3])
        repo = self.tables.by_repo[row[3]]
        room, near = min(limit - len(code) - 200, 1500), []
        for i in self.pick.choices(repo.tolist(), k=self.pick.randrange(1, 6)):
            other = self.tables.text(self.tables.find[i, 1])
            room -= len(other)
            if room > 0 and self.tables.find[i, 0] != row[0] and self.tables.find[i, 1] != row[1]:
                near.append(other)
        absent = bool(near) and self.pick.random() < 0.12
        shown = near if absent else [*near, code]
        self.pick.shuffle(shown)
        start = [p for text in shown for p in document(text, FILE)] if self.pick.random() < 0.25 else []
        return [*start, *turn(description, None if absent else line, shown, FIND, FILE)]
