"""Batches: one long row of sequences, tasks mixed by share of tokens, drawn by worker processes."""

import multiprocessing
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, IterableDataset

from lab.corpus import Corpus
from lab.plan import Phase, phase_at
from lab.render import SAY, Renderer, Tables
from lab.vocab import Vocabulary


class Rows(IterableDataset):
    """An endless stream of (tokens, targets, weights, ends) of `size` tokens; `progress` says where the plan is."""

    def __init__(self, size: int, tables: Path, corpus: Path, progress, seed: int):
        self.size, self.tables, self.corpus, self.progress, self.seed = size, tables, corpus, progress, seed

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        seed = self.seed + (worker.id if worker else 0)
        np.random.seed(seed % 2**32)
        vocab = Vocabulary(Tokenizer.from_file("lab/model/tokenizer.json"))
        corpus = Corpus(self.corpus, phase_at(0).corpus)
        renderer = Renderer(Tables(self.tables), corpus, vocab, seed, phase_at(0).questions)
        phase, given = phase_at(0), {}
        looked = time.time()
        while True:
            if phase is not phase_at(self.progress.value):
                phase, given = phase_at(self.progress.value), {}
            if time.time() - looked > 5:
                corpus.refresh()
                looked = time.time()
            renderer.retune(phase)
            yield fill(renderer, phase, self.size, given)


def fill(renderer: Renderer, phase: Phase, size: int, given: dict[str, float]) -> tuple[torch.Tensor, ...]:
    """One row: always the task that is furthest behind its share."""
    tokens, weights, ends = [], [], [0]
    while ends[-1] < size:
        task = max(phase.tasks, key=lambda t: phase.tasks[t] - given.get(t, 0) / (1 + sum(given.values())))
        ids, kinds = renderer.draw(task, phase.limit(renderer.pick, task))
        given[task] = given.get(task, 0) + len(ids)
        ids, kinds = ids[: size - ends[-1]], kinds[: size - ends[-1]]
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


def batches(size: int, tables: Path, corpus: Path, seed: int, workers: int):
    """(iterator, progress): set progress.value between 0 and 1 as training goes on."""
    progress = multiprocessing.Value("d", 0.0)
    loader = DataLoader(
        Rows(size, tables, corpus, progress, seed),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=3 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader), progress
