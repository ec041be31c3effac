"""Tasks made of running text: the text itself, blanked sentences, recitation, planted facts."""

import random
from collections.abc import Callable

import numpy as np

from lab import cloze, made
from lab.pieces import Piece, Tokens, Turn, document, length, read_then_asked, turn
from lab.vocab import Vocabulary


def between(least: int, most: int, pick: random.Random) -> int:
    """Any size between the two, its logarithm even."""
    return int(least * (max(least, most) / least) ** pick.random())


class RunningText:
    """Draws from the corpus; every method returns one sequence of about `limit` tokens at most."""

    pick: random.Random
    vocab: Vocabulary

    def __init__(self, corpus):
        self.corpus = corpus

    def stretch(self, size: int) -> Tokens:
        """Prose of `size` tokens, mostly of one document, else of several."""
        _, text = self.corpus.draw(self.pick, size, prose=True, least=size if self.pick.random() < 0.8 else 64)
        parts = [text]
        while sum(map(len, parts)) < size * 0.8:
            parts.append(self.corpus.draw(self.pick, size - sum(map(len, parts)), prose=True)[1])
        return np.concatenate(parts)

    def within(self, text: Tokens, turns: list[Turn], limit: int) -> list[Piece]:
        """The text and as many turns as fit."""
        kept, room = [], limit - len(text) - 1
        for question, answer in turns:
            room -= length(turn(question, answer))
            if room >= 0:
                kept.append((question, answer))
        return read_then_asked(text, kept)

    def before_or_after(self, text: Tokens, turns: list[Turn], limit: int) -> list[Piece]:
        """The text, then the turns; or, half the time, one of them before the text and after, as a passage is shown."""
        if not turns or self.pick.random() < 0.5:
            return self.within(text, turns, limit)
        question, answer = self.pick.choice(turns)
        return turn(question, answer, [text])

    def language(self, limit: int) -> list[Piece]:
        mark, text = self.corpus.draw(self.pick, limit - 1)
        return document(text, mark)

    def cloze(self, limit: int) -> list[Piece]:
        """A passage and a few blanked sentences of it, or one before it and after."""
        text = self.stretch(between(80, min(limit - 200, 540), self.pick))
        return self.before_or_after(*cloze.clozes(text, self.pick, self.vocab), limit)

    def blanks(self, limit: int) -> list[Piece]:
        """A long stretch of one document, many blanked sentences of it."""
        size = between(256, limit * 4 // 5, self.pick)
        most = min(24, 3 + size // 150)
        return self.within(*cloze.clozes(self.stretch(size), self.pick, self.vocab, most), limit)

    def recite(self, limit: int) -> list[Piece]:
        text = self.stretch(between(60, limit * 3 // 4, self.pick))
        return self.within(*cloze.recitation(text, self.pick, self.vocab), limit)

    def recall(self, limit: int) -> list[Piece]:
        size = between(32, limit // 2, self.pick)
        return self.within(*made.pairs(size, self.pick, self.vocab), limit)

    def planted(self, task: Callable, least: int, added: int, limit: int) -> list[Piece]:
        """Facts in running text; `added` is how much room the facts and the questions may take."""
        filler = self.stretch(between(least, max(least, limit - added), self.pick))
        return self.within(*task(filler, self.pick, self.vocab), limit)

    def needle(self, limit: int) -> list[Piece]:
        return self.planted(made.needles, 60, 300, limit)

    def keys(self, limit: int) -> list[Piece]:
        return self.planted(made.keys, 120, min(1800, limit * 2 // 3), limit)

    def values(self, limit: int) -> list[Piece]:
        return self.planted(made.values, 60, min(700, limit * 2 // 3), limit)

    def track(self, limit: int) -> list[Piece]:
        return self.planted(made.track, 60, min(700, limit * 2 // 3), limit)
