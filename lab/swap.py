"""The same text about somebody else: names and numbers exchanged wherever they stand, in text, questions and answers.

So that the answer must be read, not remembered: the human questions are few and are seen many times.
"""

import random

import numpy as np

from lab.cloze import names_in
from lab.pieces import Tokens, places
from lab.vocab import Vocabulary

Swaps = list[tuple[Tokens, Tokens]]


def fitting(run: Tokens, pool: list[Tokens], vocab: Vocabulary, pick: random.Random) -> Tokens | None:
    """Another name for a name, other digits for a number."""
    if vocab.digit[run[-1]]:
        digits = np.flatnonzero(vocab.digit)
        return np.array([t if not vocab.digit[t] else pick.choice(digits) for t in run], np.uint16)
    names = [other for other in pool if not vocab.digit[other[-1]] and not np.array_equal(other, run)]
    return pick.choice(names) if names else None


def drawn(asked: list[Tokens], stranger: Tokens, vocab: Vocabulary, pick: random.Random, most: int = 4) -> Swaps:
    """Exchanges for some names of the questions and answers, by names of another text."""
    led = [np.concatenate([[vocab.space], tokens]).astype(np.uint16) for tokens in asked]  # a run needs a token before
    runs = [tokens[a:b] for tokens in led for a, b in names_in(tokens, vocab)]
    pool = [stranger[a:b] for a, b in names_in(stranger, vocab)]
    swaps: Swaps = []
    for run in pick.sample(runs, min(most, len(runs))):
        other = fitting(run, pool, vocab, pick)
        if other is not None and not any(np.array_equal(run, old) for old, _ in swaps):
            swaps.append((run, other))
    return swaps


def swapped(tokens: Tokens, swaps: Swaps, vocab: Vocabulary) -> Tokens:
    """Whole names only: a run that goes on in the text is another name."""
    for old, new in swaps:
        goes_on = vocab.digit if vocab.digit[old[-1]] else vocab.tail
        parts, last = [], 0
        for at in places(old, tokens).tolist():
            end = at + len(old)
            if at >= last and not (end < len(tokens) and goes_on[tokens[end]]):
                parts += [tokens[last:at], new]
                last = end
        tokens = np.concatenate([*parts, tokens[last:]]).astype(np.uint16)
    return tokens
