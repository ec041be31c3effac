"""Rows as token sequences in the product's own prompt (decision 0001), and which of them make up a step."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from lab.finetune.rows import DataError, Question, Summary, Text
from lab.loader import row_tensors
from lab.pieces import READ, SAY, Piece, document, joined, special, turn
from lab.spans import quote
from lab.tokenizer import END, QUOTE, SUMMARY, UNQUOTE
from lab.vocab import Vocabulary

STEP = 1024  # tokens a step, or one longer sequence
LONGEST = 2048  # tokens of a text with questions or a summary
STRETCH = 1024  # running text is cut into pieces of this many tokens
TURNS = 4  # questions asked one after another behind one text
READ_WEIGHT, SAY_WEIGHT = 0.1, 3.0  # a token that is only read counts this much beside one of running text, 1


@dataclass(frozen=True)
class Example:
    """tokens uint16 [n]; weights fp32 [n]: how much it counts that this token was foreseen."""

    tokens: np.ndarray
    weights: np.ndarray


def examples(rows: list[Text], vocab: Vocabulary) -> list[Example]:
    """Questions on the same text become turns of one sequence. Raises DataError for a text that is too long."""
    found, asked = [], dict[str, list[Question]]()
    for row in rows:
        if isinstance(row, Question):
            asked.setdefault(row.text, []).append(row)
        elif isinstance(row, Summary):
            found.append(_weighed([*_read(row.text, vocab), *summary(row, vocab)]))
        else:
            found += _stretches(row.text, vocab)
    for text, questions in asked.items():
        start = _read(text, vocab)
        for i in range(0, len(questions), TURNS):
            found.append(_weighed([*start, *(p for q in questions[i : i + TURNS] for p in question(q, vocab))]))
    return found


def question(row: Question, vocab: Vocabulary) -> list[Piece]:
    return turn(vocab.encode(row.question), None if row.answer is None else quoted(row.text, row.answer, vocab))


def quoted(text: str, part: str, vocab: Vocabulary) -> np.ndarray:
    """A literal stretch of the text as tokens, with the one space before it: so it is cut as the reader saw it."""
    return vocab.encode(quote(text, text.index(part), len(part)))


def summary(row: Summary, vocab: Vocabulary) -> list[Piece]:
    said = [(special(QUOTE), quoted(row.text, part, vocab), special(UNQUOTE)) for part in row.summary]
    return [(special(SUMMARY), READ), *((tokens, SAY) for part in said for tokens in part), (special(END), SAY)]


def _read(text: str, vocab: Vocabulary) -> list[Piece]:
    tokens = vocab.encode(text)
    if len(tokens) > LONGEST:
        raise DataError(
            f"a text of {len(tokens)} tokens ({text[:40]!r}...) has questions or a summary; at most {LONGEST}: "
            "give the part that they are about"
        )
    return document(tokens)


def _weighed(pieces: list[Piece]) -> Example:
    tokens, kinds = joined(pieces)
    return Example(tokens, np.where(kinds == SAY, SAY_WEIGHT, READ_WEIGHT).astype(np.float32))


def _stretches(text: str, vocab: Vocabulary) -> Iterator[Example]:
    tokens = joined(document(vocab.encode(text)))[0]
    for start in range(0, len(tokens), STRETCH):
        piece = tokens[start : start + STRETCH]
        if len(piece) > 1:
            yield Example(piece, np.ones(len(piece), np.float32))


def batches(lengths: list[int], seed: int, epoch: int) -> Iterator[list[int]]:
    """One epoch: every example once, in an order that seed and epoch decide; about STEP tokens at a time."""
    order = list(range(len(lengths)))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    batch: list[int] = []
    for i in order:
        if batch and sum(lengths[j] for j in batch) + lengths[i] > STEP:
            yield batch
            batch = []
        batch.append(i)
    yield batch


def plan(lengths: list[int], seed: int, epochs: int, steps: int | None) -> list[list[int]]:
    """The examples of every step: so many epochs, or so many steps whatever the epochs."""
    if steps is None:
        return [b for epoch in range(epochs) for b in batches(lengths, seed, epoch)]
    endless = (b for epoch in range(steps) for b in batches(lengths, seed, epoch))
    return list(islice(endless, steps))


def row_of(chosen: list[Example]) -> tuple[Tensor, ...]:
    """(tokens int64 [n], targets int64 [n], weights fp32 [n], ends int32 [sequences + 1]): one row for lab.net."""
    ends = np.cumsum([0, *(len(e.tokens) for e in chosen)])
    return row_tensors(np.concatenate([e.tokens for e in chosen]), np.concatenate([e.weights for e in chosen]), ends)


def tokens_of(batch: list[int], lengths: list[int]) -> int:
    return sum(lengths[i] for i in batch)


def on(device: torch.device, row: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.to(device) for x in row)
