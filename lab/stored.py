"""The token tables on disk (`lab.tables` makes them), and who belongs to which context."""

from pathlib import Path

import numpy as np

from lab.pieces import Tokens
from lab.tables import QA_SOURCES


class Tables:
    """`qa` [context, question, answer, source, article], `summaries` and `find`, their texts by number."""

    def __init__(self, folder: Path):
        def load(name):
            return np.load(folder / f"{name}.npy", mmap_mode="r")

        self.tokens, self.offsets = load("tokens"), load("offsets")
        self.qa, self.summaries, self.find = (np.array(load(n)) for n in ("qa", "summaries", "find"))
        self.index()

    def index(self) -> None:
        self.by_context = groups(self.qa[:, 0])
        self.by_article = {a: np.unique(self.qa[rows, 0]) for a, rows in groups(self.qa[:, 4]).items()}
        self.by_source = {QA_SOURCES[s]: np.unique(self.qa[rows, 0]) for s, rows in groups(self.qa[:, 3]).items()}
        self.by_repo = groups(self.find[:, 3])

    def text(self, number: int) -> Tokens:
        return np.array(self.tokens[self.offsets[number] : self.offsets[number + 1]])

    def article_of(self, context: int) -> int:
        return int(self.qa[self.by_context[context][0], 4])


def groups(keys: np.ndarray) -> dict[int, np.ndarray]:
    order = np.argsort(keys, kind="stable")
    values, starts = np.unique(keys[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, starts[1:]), strict=True))
