"""Batches: one long row of sequences, tasks mixed by share of tokens, drawn by worker processes.

`python -m lab.loader --tables DIR --corpus DIR` draws without training and prints the shares of each phase.
"""

import argparse
import multiprocessing
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, IterableDataset

from lab.corpus import Corpus
from lab.pieces import SAY
from lab.plan import PHASES, Phase, phase_at
from lab.render import Renderer
from lab.stored import Tables
from lab.vocab import Vocabulary

LEAST = 512  # tokens: no task is begun in less room


class Share:
    """Tokens given to each task; the next task is the one furthest behind its share."""

    def __init__(self, wanted: dict[str, float]):
        self.wanted, self.given = wanted, Counter()

    def next(self) -> str:
        total = 1 + self.given.total()
        return max(self.wanted, key=lambda task: self.wanted[task] - self.given[task] / total)


class Rows(IterableDataset):
    """An endless stream of (tokens, targets, weights, ends) of `size` tokens; `progress` says where the plan is."""

    def __init__(self, size: int, tables: Path, corpus: Path, progress, seed: int):
        self.size, self.tables, self.corpus, self.progress, self.seed = size, tables, corpus, progress, seed

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        renderer = renderer_of(self.tables, self.corpus, self.seed + (worker.id if worker else 0))
        phase = None
        while True:
            if phase is not phase_at(self.progress.value):
                phase = phase_at(self.progress.value)
                share = Share(phase.tasks)  # counts begin anew with each phase
                renderer.retune(phase)
            yield fill(renderer, phase, self.size, share)


def renderer_of(tables: Path, corpus: Path, seed: int) -> Renderer:
    np.random.seed(seed % 2**32)
    vocab = Vocabulary(Tokenizer.from_file("lab/model/tokenizer.json"))
    first = PHASES[0]
    return Renderer(Tables(tables), Corpus(corpus, first.corpus), vocab, seed, first.questions)


def fill(renderer: Renderer, phase: Phase, size: int, share: Share) -> tuple[torch.Tensor, ...]:
    """One row of whole sequences; the little room that is left at its end goes to running text."""
    tokens, weights, ends = [], [], [0]
    while ends[-1] < size:
        room = size - ends[-1]
        task = share.next() if room >= LEAST else "language"
        ids, kinds = renderer.draw(task, min(phase.limit(renderer.pick, task), room))
        share.given[task] += len(ids)
        read = 1.0 if task == "language" else phase.read_weight
        tokens.append(ids)
        weights.append(np.where(kinds == SAY, phase.say_weight, read))
        ends.append(ends[-1] + len(ids))
    return row_tensors(np.concatenate(tokens), np.concatenate(weights), np.array(ends))


def row_tensors(tokens: np.ndarray, weights: np.ndarray, ends: np.ndarray) -> tuple[torch.Tensor, ...]:
    """Every token predicts the next of its sequence; the last of each predicts nothing."""
    targets = np.append(tokens[1:], 0).astype(np.int64)
    weights = np.append(weights[1:], 0).astype(np.float32)
    weights[ends[1:] - 1] = 0
    return tuple(
        torch.from_numpy(np.ascontiguousarray(x))
        for x in (tokens.astype(np.int64), targets, weights, ends.astype(np.int32))
    )


def batches(size: int, tables: Path, corpus: Path, seed: int, workers: int, plan: float = 0.0):
    """(iterator, progress): set progress.value between 0 and 1 as training goes on."""
    progress = multiprocessing.Value("d", plan)
    loader = DataLoader(
        Rows(size, tables, corpus, progress, seed),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=3 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader), progress


def simulate(tables: Path, corpus: Path, size: int, rows: int) -> None:
    """What each phase really gives to its tasks, with the sequences, their mean length and the tokens a second."""
    for phase in PHASES:
        renderer, share, seen = renderer_of(tables, corpus, 1), Share(phase.tasks), Counter()
        renderer.retune(phase)
        draw, began, said = renderer.draw, time.time(), Counter()

        def counted(task, limit, draw=draw, seen=seen, said=said):
            ids, kinds = draw(task, limit)
            seen[task] += 1
            said[task] += int((kinds == SAY).sum())
            return ids, kinds

        renderer.draw = counted
        for _ in range(rows):
            fill(renderer, phase, size, share)
        total = share.given.total()
        print(f"until {phase.until}: {seen.total()} sequences, {total / (time.time() - began):.0f} tokens/s")
        for task, wanted in phase.tasks.items():
            given, n = share.given[task], max(1, seen[task])
            each = f"{n:6} x {given / n:8.1f}, of these said {said[task] / n:.1f}"
            print(f"  {task:10} {given / total:.4f} of {wanted:.4f} {each}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--size", type=int, default=65536)
    parser.add_argument("--rows", type=int, default=20)
    args = parser.parse_args()
    simulate(args.tables, args.corpus, args.size, args.rows)
