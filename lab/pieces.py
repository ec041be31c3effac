"""What a training sequence is put together from, in the product's own prompt (decision 0001).

A sequence is a list of pieces (tokens, kind): READ is given to the model, SAY is what it must say.
"""

from collections.abc import Sequence

import numpy as np

from lab.tokenizer import ANSWER, DOC, END, NONE, QUESTION, QUOTE, UNQUOTE

READ, SAY = 1, 2
Tokens = np.ndarray  # uint16 [n]
Piece = tuple[Tokens, int]
Turn = tuple[Tokens, Tokens | list[Tokens] | None]  # question; its answer, its answers, or None: not in the text


def special(*ids: int) -> Tokens:
    return np.array(ids, np.uint16)


def quoted(answers: Sequence[Tokens]) -> list[Piece]:
    return [(piece, SAY) for answer in answers for piece in (special(QUOTE), answer, special(UNQUOTE))]


def said(answer: Tokens | list[Tokens] | None) -> list[Piece]:
    """The answer as a quotation, several in the order of the text, or that the text does not say."""
    if answer is None:
        return [(special(NONE, END), SAY)]
    return [*quoted(answer if isinstance(answer, list) else [answer]), (special(END), SAY)]


def turn(
    question: Tokens,
    answer: Tokens | list[Tokens] | None,
    passages: Sequence[Tokens] = (),
    mark: int = QUESTION,
    item: int = DOC,
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


def read_then_asked(text: Tokens, turns: Sequence[Turn], mark: int = DOC) -> list[Piece]:
    """A text, then bare questions on it, one after another."""
    return [*document(text, mark), *(piece for question, answer in turns for piece in turn(question, answer))]


def length(pieces: Sequence[Piece]) -> int:
    return sum(len(tokens) for tokens, _ in pieces)


def joined(pieces: Sequence[Piece]) -> tuple[Tokens, Tokens]:
    """(tokens, kinds) of a whole sequence."""
    tokens = np.concatenate([p for p, _ in pieces])
    kinds = np.concatenate([np.full(len(p), kind, np.uint8) for p, kind in pieces])
    return tokens, kinds


def places(needle: Tokens, hay: Tokens) -> np.ndarray:
    """Where the run of tokens begins in the other."""
    if not 0 < len(needle) <= len(hay):
        return np.zeros(0, np.int64)
    found = np.flatnonzero(hay[: len(hay) - len(needle) + 1] == needle[0])
    for i in range(1, len(needle)):
        found = found[hay[found + i] == needle[i]]
    return found


def occurs(needle: Tokens, hay: Tokens) -> bool:
    return len(places(needle, hay)) > 0
