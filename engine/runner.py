"""The loop: what one step does for the requests that are running, and how a request ends.

Deterministic, a row's bits depend on nothing beside it. The compiled kernels of a CPU give that as they are; those of a
GPU where readings take fixed tiles and at most TOGETHER sequences decode in one forward (gpu.py); PyTorch's operations
only to one sequence a forward, in 1 or 64 rows.
"""

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engine.batch import Work, pack
from engine.config import EngineConfig
from engine.copying import Copier, Copying
from engine.model import KimiLinear, Piece
from engine.pools import Pools
from engine.request import Done, Event, Generate, Progress, Read, Reason, Request, Token
from engine.sampler import SamplingParams, logprob, sample
from engine.scheduler import Scheduler
from engine.sequences import Sequence, Sequences

if TYPE_CHECKING:
    from engine.decoding import Decoder


class Runner:
    """At most one request a sequence; whoever starts one has reserved its pages."""

    def __init__(self, model: KimiLinear, config: EngineConfig, pools: Pools, sequences: Sequences) -> None:
        self._model, self._config, self._pools, self._sequences = model, config, pools, sequences
        serial = config.deterministic and not model.triton
        self._scheduler = Scheduler(config.grid, config.prefill_tokens_per_step, serial)
        self._alone = serial and not model.compiled  # a forward has one sequence, and full grids of rows
        self._fixed = config.deterministic and model.triton
        self._decoder = _decoder(model, config, pools)
        self._requests: dict[int, Request] = {}
        self._by_sequence: dict[int, Request] = {}
        self._numbers = count(1)
        self._events: list[Event] = []

    @property
    def busy(self) -> bool:
        return bool(self._requests or self._events)

    @property
    def running(self) -> set[int]:
        """The sequences that have a request."""
        return set(self._by_sequence)

    def request_of(self, sequence: Sequence) -> Request | None:
        return self._by_sequence.get(sequence.id)

    def read(self, sequence: Sequence, ids: list[int], score: bool) -> int:
        return self._start(Read(next(self._numbers), sequence.id, ids, score))

    def generate(
        self, sequence: Sequence, params: SamplingParams, forced: list[int], copying: Copying | None = None
    ) -> int:
        copier = Copier(copying) if copying else None
        return self._start(Generate(next(self._numbers), sequence.id, params, forced, copier))

    def abort(self, request: int) -> None:
        if request in self._requests:
            self._finish(self._requests[request], "aborted")

    def abort_of(self, sequence: Sequence) -> None:
        if request := self.request_of(sequence):
            self.abort(request.id)

    def step(self) -> list[Event]:
        plan = self._scheduler.plan()
        decoded = [(request, self._decode(request)) for request in plan.decodes]
        decodes = [self._work(request, [token]) for request, token in decoded if token is not None]
        if self._decoder:
            self._decode_together(self._decoder, decodes)
            decodes = []
        for works in self._forwards(decodes, plan.chunks):
            self._forward(works)
        events, self._events = self._events, []
        return events

    def _start(self, request: Request) -> int:
        self._requests[request.id] = self._by_sequence[request.sequence] = request
        self._scheduler.add(request)
        return request.id

    def _work(self, request: Request, ids: list[int]) -> Work:
        return Work(request, self._sequences[request.sequence], ids)

    # a token

    def _decode(self, request: Generate) -> int | None:
        """The next token of a request; None when it was its last, which is not fed."""
        sequence = self._sequences[request.sequence]
        logits = sequence.logits
        assert logits is not None, f"sequence {sequence.id} decodes without logits"
        forced = request.count < len(request.forced)
        wanted = request.forced[request.count] if forced else None
        token = self._next(request, logits, sequence.position, wanted)
        request.count += 1
        if token in request.params.stop_ids and not forced:
            self._finish(request, "stop")
        elif request.count == request.params.max_tokens:
            self._finish(request, "length")
        else:
            return token
        return None

    def _next(self, request: Generate, logits: Tensor, position: int, wanted: int | None) -> int:
        """``wanted``, or a token sampled: of the whole vocabulary, or of what the source goes on with."""
        copier = request.copier
        allowed = copier.allowed() if copier else None
        best = self._sequences[request.sequence].best
        if best and allowed is None and wanted is None and request.params.greedy:
            return self._said(request, *best)
        if allowed is not None:
            logits = logits[torch.from_numpy(allowed).to(logits.device)]
            wanted = None if wanted is None else int(np.searchsorted(allowed, wanted))
        at = sample(logits, request.params, position) if wanted is None else wanted
        token = at if allowed is None else int(allowed[at])
        self._report(request, logits, at, token)
        return self._fed(request, token)

    def _said(self, request: Generate, token: int, logprob: float) -> int:
        """The likeliest id, which the forward has told along with its logits."""
        self._events.append(Token(request.id, token, logprob, True))
        return self._fed(request, token)

    def _fed(self, request: Generate, token: int) -> int:
        if request.copier:
            request.copier.feed(token)
        return token

    def _report(self, request: Request, logits: Tensor, at: int, token: int) -> None:
        """``token`` is the one that ``at`` of the logits belongs to."""
        likeliest = int(logits.argmax()) == at
        self._events.append(Token(request.id, token, logprob(logits, at), likeliest))

    # a forward

    def _decode_together(self, decoder: "Decoder", works: list[Work]) -> None:
        """One id each, in forwards of their own: whoever reads beside them changes no bit of theirs."""
        for start in range(0, len(works), decoder.most):
            group = works[start : start + decoder.most]
            try:
                decoded = decoder.run(group)
            except Exception as error:
                for work in group:
                    self._fail(work.request, f"{type(error).__name__}: {error}")
                continue
            for work, found in zip(group, decoded, strict=True):
                s = work.sequence
                s.advance(found.after, self._config.page_tokens)
                s.logits, s.best = found.logits, found.best
                if not (found.finite and found.intact):
                    self._fail(work.request, _why(found.finite, s))

    def _forwards(self, decodes: list[Work], chunks: list[tuple[Read, int]]) -> list[list[Work]]:
        """One work a forward when its company would show in the bits; else all in one, a reader's chunks joined."""
        cursor = {read.id: read.done for read, _ in chunks}
        works = []
        for read, tokens in chunks if self._alone else _joined(chunks):
            works.append(self._work(read, read.ids[cursor[read.id] : cursor[read.id] + tokens]))
            cursor[read.id] += tokens
        if self._alone:
            return [[work] for work in decodes + works]
        return [decodes + works] if decodes or works else []

    def _forward(self, works: list[Work]) -> None:
        works = [work for work in works if work.request.id in self._requests]  # one may have failed in this step
        works.sort(key=lambda work: len(work.ids) > 1)  # single rows first: they take other kernels
        if not works:
            return
        config = self._config
        batch = replace(
            pack(works, config.grid, config.page_tokens, self._alone, self._model.device), fixed=self._fixed
        )
        intact = [self._intact(work.sequence) for work in works]
        try:
            hidden = self._model.forward(batch, self._pools)
        except Exception as error:  # half a forward has advanced some layers and not others
            for work in works:
                self._fail(work.request, f"{type(error).__name__}: {error}")
            return
        for work, piece, before in zip(works, batch.pieces, intact, strict=True):
            self._book(work.sequence, piece)
            self._advance(work, hidden[piece.rows], before)

    def _intact(self, s: Sequence) -> Tensor:
        """[] bool, on the device and not waited for: whether what a forward starts from bears its seals."""
        filling = s.position % self._config.page_tokens > 0
        return self._pools.intact(s.slot, s.pages[len(s.book) - 1] if filling else None)

    def _book(self, s: Sequence, piece: Piece) -> None:
        """Books what a forward did to a sequence's state, and seals it."""
        self._pools.seal(s.slot, piece.pages[piece.position // self._config.page_tokens :])
        s.advance(piece.after, self._config.page_tokens)

    def _advance(self, work: Work, hidden: Tensor, intact: Tensor) -> None:
        """Logits and events of what was fed; the one place where the host waits for the device."""
        request, s = work.request, work.sequence
        if isinstance(request, Read):
            request.done += len(work.ids)
            if request.score:
                self._score(request, len(work.ids), hidden)
        last = isinstance(request, Generate) or request.done == len(request.ids)
        s.logits, s.best = self._model.logits(hidden[-1:])[0] if last else None, None
        finite = (hidden.sum() if s.logits is None else s.logits.sum() + hidden.sum()).isfinite()
        if not bool(finite & intact):
            self._fail(request, _why(bool(finite), s))
        elif isinstance(request, Read):
            self._events.append(Progress(request.id, request.done, len(request.ids)))
            if last:
                self._finish(request, "read")

    def _score(self, request: Read, fed: int, hidden: Tensor) -> None:
        """Reports the ids that follow the rows just fed, as far as the segment goes."""
        following = request.ids[request.done - fed + 1 : request.done + 1]
        if following:
            rows = self._model.logits(hidden[: len(following)], self._fixed)
            for logits, token in zip(rows, following, strict=True):
                self._report(request, logits, token, token)

    # ends

    def _fail(self, request: Request, error: str) -> None:
        """Ends a request whose sequence cannot be trusted any more, and the sequence with it."""
        s = self._sequences[request.sequence]
        self._finish(request, "error", error)
        self._sequences.close(s)

    def _finish(self, request: Request, reason: Reason, error: str | None = None) -> None:
        s = self._sequences[request.sequence]
        self._scheduler.remove(request)
        del self._requests[request.id], self._by_sequence[s.id]
        self._sequences.trim(s)
        if s.logits is not None:
            s.logits = s.logits.clone()  # it may be a row of many sequences' logits, which are let go with it
        self._events.append(Done(request.id, reason, s.position, s.digest, error))


def _decoder(model: KimiLinear, config: EngineConfig, pools: Pools) -> "Decoder | None":
    if not model.triton:
        return None
    from engine.decoding import Decoder  # needs triton

    return Decoder(model, config, pools)


def _why(finite: bool, s: Sequence) -> str:
    if not finite:
        return f"not a number at position {s.position}"
    return (
        f"ProvenanceError: before position {s.position}, slot {s.slot} or its last page was not what had been written"
    )


def _joined(chunks: list[tuple[Read, int]]) -> list[tuple[Read, int]]:
    """The chunks of each reading added up, in the order of first appearance."""
    totals: dict[int, int] = {}
    reads = {read.id: read for read, _ in chunks}
    for read, tokens in chunks:
        totals[read.id] = totals.get(read.id, 0) + tokens
    return [(reads[number], tokens) for number, tokens in totals.items()]
