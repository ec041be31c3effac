"""A reader for measurements: segments in, what the model says out, by the engine that the product runs."""

import torch
from tokenizers import Tokenizer

from engine import Engine, EngineConfig, SamplingParams, Token, load_model
from lab.tokenizer import END, NONE, QUOTE, UNQUOTE


class Reader:
    def __init__(self, folder: str, threads: int = 1):
        torch.set_num_threads(threads)
        self.tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
        self.engine = Engine(
            load_model(folder),
            EngineConfig(max_slots=24, max_tokens=131072, prefill_tokens_per_step=2048, deterministic=False),
        )

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids

    def run(self, request: int) -> list[Token]:
        events = []
        while self.engine.busy:
            events += self.engine.step()
        return [e for e in events if isinstance(e, Token) and e.request == request]

    def open(self, ids: list[int]) -> int:
        seq = self.engine.open()
        self.run(self.engine.read(seq, ids))
        return seq

    def ask(self, seq: int, ids: list[int], most: int = 64) -> list[int]:
        """The answer's tokens, decoded on a fork that is thrown away."""
        fork = self.engine.fork(seq)
        self.run(self.engine.read(fork, ids))
        said = self.run(self.engine.generate(fork, SamplingParams(max_tokens=most, stop_ids=(END,))))
        self.engine.close(fork)
        return [t.id for t in said]

    def each(self, prompts: list[list[list[int]]], most: int = 64, together: int = 20) -> list[list[int]]:
        """The answers to many prompts, each a list of segments of the same count; `together` of them at a time."""
        return [a for i in range(0, len(prompts), together) for a in self._batch(prompts[i : i + together], most)]

    def _batch(self, prompts: list[list[list[int]]], most: int) -> list[list[int]]:
        seqs = [self.engine.open() for _ in prompts]
        for number in range(len(prompts[0])):
            self._all([self.engine.read(q, p[number]) for q, p in zip(seqs, prompts, strict=True)])
        said = self._all([self.engine.generate(q, SamplingParams(max_tokens=most, stop_ids=(END,))) for q in seqs])
        for seq in seqs:
            self.engine.close(seq)
        return said

    def _all(self, requests: list[int]) -> list[list[int]]:
        tokens: dict[int, list[int]] = {r: [] for r in requests}
        while self.engine.busy:
            for event in self.engine.step():
                if isinstance(event, Token):
                    tokens[event.request].append(event.id)
        return [tokens[r] for r in requests]

    def logprobs(self, ids: list[int]) -> list[float]:
        seq = self.engine.open()
        scored = self.run(self.engine.read(seq, ids, score=True))
        self.engine.close(seq)
        return [t.logprob for t in scored]

    def quotes(self, said: list[int]) -> list[str] | None:
        """The quotations of an answer; None where it says the text does not tell."""
        if NONE in said:
            return None
        found, current = [], None
        for token in said:
            if token == QUOTE:
                current = []
            elif token == UNQUOTE and current is not None:
                found.append(self.tokenizer.decode(current).strip())
                current = None
            elif current is not None and token > 15:
                current.append(token)
        return found + ([self.tokenizer.decode(current).strip()] if current else [])
