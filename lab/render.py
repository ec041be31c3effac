"""Draws one training sequence of a task: what the product will send, and what the model must say to it."""

import random

from lab.asking import Asking
from lab.pieces import READ, SAY, Piece, Tokens, document, joined, said, special, turn
from lab.stored import Tables
from lab.vocab import Vocabulary

__all__ = ["READ", "SAY", "Piece", "Renderer", "Tables", "document", "joined", "said", "special", "turn"]


class Renderer(Asking):
    """`draw(task, limit)`: every task is a method of `lab.running` or `lab.asking`."""

    def __init__(self, tables: Tables, corpus, vocab: Vocabulary, seed: int, sources: dict[str, float]):
        super().__init__(tables, corpus, sources)
        self.vocab, self.pick = vocab, random.Random(seed)

    def retune(self, phase) -> None:
        """Take the phase's shares of question sources and of corpus kinds."""
        self.sources = {s: w for s, w in phase.questions.items() if s in self.tables.by_source}
        self.corpus.weights = phase.corpus

    def draw(self, task: str, limit: int) -> tuple[Tokens, Tokens]:
        """(tokens uint16, kinds uint8), at most `limit` long: whole and with an answer, if three tries give one."""
        for _ in range(3):
            tokens, kinds = joined(getattr(self, task)(limit))
            if len(tokens) <= limit and (task == "language" or SAY in kinds):
                break
        return tokens[:limit], kinds[:limit]
