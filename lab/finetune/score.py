"""A model on rows it was not trained on, by the engine that the product runs: perplexity, accuracy, F1."""

import math
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev

import torch
from tokenizers import Tokenizer

from engine import Engine, EngineConfig, SamplingParams, Token, load_model
from lab.finetune.batches import question, summary
from lab.finetune.rows import Question, Summary, Text
from lab.pieces import joined
from lab.scoring import exact, f1, mean
from lab.tokenizer import ANSWER, DOC, END, NONE, QUESTION, QUOTE, SUMMARY, UNQUOTE
from lab.vocab import Vocabulary

MOST, MOST_SUMMARY = 64, 256  # tokens of an answer, of a summary
TOGETHER = 16  # questions decoded side by side
Scores = dict[str, dict]  # name: {value, n, ci95}
Values = dict[str, list[float]]


class Judge:
    """An engine and its tokenizer; every question is asked on a fork of its text's reading."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        model = load_model(folder, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
        config = EngineConfig(max_slots=TOGETHER + 2, prefill_tokens_per_step=2048, deterministic=False)
        self.engine, self.tokenizer = Engine(model, config), Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.vocab = Vocabulary(self.tokenizer)

    def _run(self, requests: list[int]) -> list[list[Token]]:
        found: dict[int, list[Token]] = {r: [] for r in requests}
        while self.engine.busy:
            for event in self.engine.step():
                if isinstance(event, Token):
                    found[event.request].append(event)
        return list(found.values())

    def _open(self, ids: list[int]) -> int:
        seq = self.engine.open()
        self._run([self.engine.read(seq, ids)])
        return seq

    def ask(self, text: str, turns: list[list[int]], most: int = MOST) -> list[list[int]]:
        """What is said after each turn, greedily; every turn is read behind the text alone."""
        seq = self._open([DOC, *self.vocab.encode(text).tolist()])
        some = [turns[i : i + TOGETHER] for i in range(0, len(turns), TOGETHER)]
        said = [ids for together in some for ids in self._side_by_side(seq, together, most)]
        self.engine.close(seq)
        return said

    def _side_by_side(self, seq: int, turns: list[list[int]], most: int) -> list[list[int]]:
        forks = [self.engine.fork(seq) for _ in turns]
        self._run([self.engine.read(fork, ids) for fork, ids in zip(forks, turns, strict=True)])
        params = SamplingParams(max_tokens=most, stop_ids=(END,))
        said = self._run([self.engine.generate(fork, params) for fork in forks])
        for fork in forks:
            self.engine.close(fork)
        return [[token.id for token in tokens] for tokens in said]

    def losses(self, ids: list[int], behind: list[int] | None = None) -> list[float]:
        """-ln p of every token but the first, of a reading or of what is read behind it."""
        seq = self.engine.open() if behind is None else self._open(behind)
        scored = self._run([self.engine.read(seq, ids, score=True)])[0]
        self.engine.close(seq)
        return [-token.logprob for token in scored][-(len(ids) - 1) :]

    def quotes(self, said: list[int]) -> list[str]:
        """The quotations of an answer, stripped; none where it says that the text does not tell."""
        found: list[list[int]] = []
        for token in said:
            if token == QUOTE:
                found.append([])
            elif token in (UNQUOTE, END, NONE):
                continue
            elif found:
                found[-1].append(token)
        return [self.tokenizer.decode(ids).strip() for ids in found]


def score(judge: Judge, rows: list[Text]) -> Iterator[Scores | None]:
    """The scores at last; before that, None after each row, for a progress bar."""
    values: Values = {}
    rows = sorted(rows, key=lambda row: (type(row).__name__, row.text))
    for (kind, text), group in groupby(rows, key=lambda row: (type(row), row.text)):
        same = list(group)
        for found in _MEASURES[kind](judge, text, same):
            for name, value in found.items():
                values.setdefault(name, []).extend(value)
            yield None
    yield _means(values)


def _means(values: Values) -> Scores:
    """Per cent; perplexities from the losses of all tokens."""
    return {k: _perplexity(v) if k.startswith("perplexity") else mean(v) for k, v in sorted(values.items()) if v}


def _perplexity(losses: list[float]) -> dict:
    """e to the mean loss, with its 95 % interval (normal, tokens taken as independent)."""
    middle = fmean(losses)
    spread = 1.96 * stdev(losses) / math.sqrt(len(losses)) if len(losses) > 1 else 0.0
    low, value, high = (round(math.exp(x), 3) for x in (middle - spread, middle, middle + spread))
    return {"value": value, "n": len(losses), "ci95": [low, high]}


def _text(judge: Judge, text: str, rows: list[Text]) -> Iterator[Values]:
    ids = judge.vocab.encode(text).tolist()
    for _ in rows:
        yield {"perplexity_text": judge.losses([DOC, *ids])}


def _questions(judge: Judge, text: str, rows: list[Question]) -> Iterator[Values]:
    """Accuracy and F1 as SQuAD 2 counts them: where nothing is to be found, saying so is right, anything else wrong."""
    turns = [[QUESTION, *judge.vocab.encode(row.question).tolist(), ANSWER] for row in rows]
    before = [DOC, *judge.vocab.encode(text).tolist()]
    for row, turn, said in zip(rows, turns, judge.ask(text, turns), strict=True):
        quotes = judge.quotes(said)
        words = quotes[0] if quotes else None
        whole = joined(question(row, judge.vocab))[0].tolist()
        yield _graded(words, row) | {"perplexity_answer": judge.losses(whole, before)[len(turn) - 1 :]}


def _graded(words: str | None, row: Question) -> Values:
    if row.answer is None:
        right = float(words is None)
        return {"accuracy": [right], "f1": [right], "said_not_in_text": [right]}
    found = {"false_refusals": [float(words is None)]} | ({"literal": [float(words in row.text)]} if words else {})
    pair = (words or "", row.answer)
    return found | {"accuracy": [exact(*pair) if words else 0.0], "f1": [f1(*pair) if words else 0.0]}


def _summaries(judge: Judge, text: str, rows: list[Summary]) -> Iterator[Values]:
    for row, said in zip(rows, judge.ask(text, [[SUMMARY]] * len(rows), MOST_SUMMARY), strict=True):
        quotes = judge.quotes(said)
        losses = judge.losses(joined(summary(row, judge.vocab))[0].tolist(), [DOC, *judge.vocab.encode(text).tolist()])
        yield {
            "summary_f1": [f1(" ".join(quotes), " ".join(row.summary))],
            "literal": [float(q in text) for q in quotes],
            "perplexity_answer": losses,
        }


_MEASURES: dict[type[Text], Callable[..., Iterator[Values]]] = {Text: _text, Question: _questions, Summary: _summaries}
