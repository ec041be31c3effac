"""What is trained on, row by row, and what is measured."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lab.experiments.longcontext.tasks import Sample, Source, draw
from lab.experiments.rivals import Rival
from lab.loader import row_tensors
from lab.net import Row
from lab.scoring import mean

Answers = list[tuple[int, float]]  # number of the sample, 1 where the answer is right


class Rows(Dataset):
    """Row ``n`` is the same whoever draws it: a run that goes on reads what it would have read."""

    def __init__(self, source: Source, training: dict, first: int):
        self.source, self.training, self.first = source, training, first

    def __len__(self) -> int:
        return self.training["steps"] - self.first

    def __getitem__(self, n: int) -> tuple[Tensor, ...]:
        """(tokens, targets, weights, ends) of lab.loader, of ``tokens`` tokens."""
        pick = np.random.default_rng([self.training["seed"], self.first + n])
        samples = list(self.samples(pick))
        ends = np.cumsum([0, *(len(one.ids) for one in samples)])
        weights = np.concatenate([self.weights(one) for one in samples])
        return row_tensors(np.concatenate([one.ids for one in samples]), weights, ends)

    def samples(self, pick: np.random.Generator) -> Iterator[Sample]:
        """Lengths whose logarithm is even, between the least and the most; running text in what is left."""
        names, shares = zip(*self.training["mix"].items(), strict=True)
        (least, most), room = self.training["lengths"], self.training["tokens"]
        while room >= least:
            length = min(room, int(least * (most / least) ** pick.random()))
            task = pick.choice(names, p=np.array(shares) / sum(shares))
            yield draw(task, length, self.source, pick)
            room -= length
        if room:
            yield draw("text", room, self.source, pick)

    def weights(self, one: Sample) -> np.ndarray:
        weights = np.full(len(one.ids), self.training["read"])
        for first, last in one.answers:
            weights[first:last] = 1.0
        return weights


def stream(source: Source, training: dict, first: int, workers: int, pinned: bool) -> Iterator[tuple[Tensor, ...]]:
    rows = Rows(source, training, first)
    return iter(DataLoader(rows, batch_size=None, num_workers=workers, pin_memory=pinned))


def packed(samples: Sequence[Sample], tokens: int) -> Iterator[list[tuple[int, Sample]]]:
    """Numbered samples in groups of at most ``tokens`` tokens, or of one."""
    group, room = list[tuple[int, Sample]](), tokens
    for one in enumerate(samples):
        if group and len(one[1].ids) > room:
            yield group
            group, room = [], tokens
        group.append(one)
        room -= len(one[1].ids)
    yield group


@torch.no_grad()
def answered(net: Rival, samples: Sequence[Sample], tokens: int) -> Answers:
    """Whether greedy decoding would give each answer, whole: the right one stays likeliest at every token of itself."""
    found: Answers = []
    for group in packed(samples, tokens):
        ids = torch.from_numpy(np.concatenate([one.ids for _, one in group])).to(net.embed_tokens.device)
        starts = np.cumsum([0, *(len(one.ids) for _, one in group)])
        x, _ = net.hidden(ids, Row(torch.from_numpy(starts.astype(np.int32)), ids.device))
        for start, (number, one) in zip(starts, group, strict=False):
            found += [(number, hit(net, x, ids, start + a, start + b, one.unordered)) for a, b in one.answers]
    return found


def hit(net: Rival, x: Tensor, ids: Tensor, first: int, last: int, unordered: bool) -> float:
    """Ordered: 1 or 0. Unordered: the share of the answer's tokens among as many likeliest ones before it."""
    logits = net.logits(x[first - 1 : last - 1])
    if unordered:
        return float(torch.isin(logits[0].topk(last - first).indices, ids[first:last]).float().mean())
    return float((logits.argmax(-1) == ids[first:last]).all())


def measured(
    net: Rival, source: Source, task: str, length: int, count: int, tokens: int
) -> dict[str, float | int | list[float]]:
    """Per cent of the answers that are right, with the interval of lab.scoring, on ``count`` samples of a length."""
    picks = (np.random.default_rng([length, n]) for n in range(count))
    found = answered(net, [draw(task, length, source, pick) for pick in picks], tokens)
    return mean([hit for _, hit in found], texts=[number for number, _ in found])
