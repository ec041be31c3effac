"""A decoded token on a GPU: the whole step in CUDA graphs, and one wait of the host for what it says.

A graph has fixed sizes, so there is one for so many rows and so many pages, both powers, captured when it is first
needed. It is cut in pieces: to launch one takes the host a microsecond for each kernel in it, and the device begins
when that is done, so a short piece comes first and the others are launched while it runs.

What changes from step to step (ids, slots, lengths) goes in by one copy, which is part of it. Page tables lie
on the device by slot: a request has all its pages when it begins. Rows beyond them are idle: slot -1, length 0.
"""

import logging
from collections.abc import Iterator
from collections.abc import Sequence as Works
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from engine import digest
from engine.batch import Work
from engine.config import ConfigError, EngineConfig
from engine.gpu import TOGETHER, Group, Pieces
from engine.model import KimiLinear
from engine.pools import Pools
from engine.provenance import Tag
from kernels.gpu import rows as ops
from kernels.gpu import step
from kernels.gpu.packing import Packing

log = logging.getLogger(__name__)

FIRST_PAGES, WIDER = 16, 4  # page tables of 16, 64, 256, … pages: a short reading does not pay for a long one's grid
CUTS = (1, 5)  # layers: a graph ends before each
_APART = 4  # int32: rows of the inputs begin at multiples of 16 bytes


@dataclass(frozen=True)
class Decoded:
    """What a step did for one sequence."""

    after: Tag
    logits: Tensor  # [vocab] fp32
    best: tuple[int, float]  # the likeliest id and its log-probability
    finite: bool
    intact: bool  # what it started from was what had been sealed


@dataclass(frozen=True)
class _Graph:
    pieces: list[torch.cuda.CUDAGraph]
    logits: Tensor

    def replay(self) -> None:
        for piece in self.pieces:
            piece.replay()


class Decoder:
    """``most``: how many sequences may decode in one step."""

    def __init__(self, model: KimiLinear, config: EngineConfig, pools: Pools) -> None:
        if config.page_tokens < 16:
            raise ConfigError(f"page_tokens is {config.page_tokens}; the kernels of a GPU need 16")
        self._model, self._pools, self._page = model, pools, config.page_tokens
        self.most = TOGETHER if config.deterministic else _power(config.max_slots, 1, 2)
        self._device, self._on_gpu = model.device, model.device.type == "cuda"
        longest = min(config.pages, -(-model.config.model_max_length // config.page_tokens))
        self._widest = _power(longest, FIRST_PAGES, WIDER)
        self._tables = torch.zeros(config.max_slots, self._widest, dtype=torch.int32, device=self._device)
        self._of = [0] * config.max_slots  # the request whose pages a row of _tables holds
        size = 3 * max(self.most, _APART)
        self._inputs = torch.zeros(size, dtype=torch.int32, device=self._device)
        self._inputs_host = torch.zeros(size, dtype=torch.int32, device="cpu", pin_memory=self._on_gpu)
        self._inputs_np = self._inputs_host.numpy()
        self._done = torch.cuda.Event() if self._on_gpu else None
        self._told = torch.zeros(self.most, 4, dtype=torch.float64, device="cpu", pin_memory=self._on_gpu)
        self._ones = torch.arange(self.most + 1, dtype=torch.int32, device=self._device)
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._pool = torch.cuda.graph_pool_handle() if self._on_gpu else None
        self.captures = self._on_gpu  # until one fails

    def run(self, works: Works[Work]) -> list[Decoded]:
        """Feeds each sequence its one id. Raises ProvenanceError before anything is written."""
        for work in works:
            self._pools.require(work.sequence.slot, work.sequence.pages, work.sequence.tag)
        logits = self._launch(works)
        afters = [self._tag(work) for work in works]  # while the device computes
        if self._done:
            self._done.synchronize()  # the one place where the host waits for it
        found = zip(afters, logits, self._told[: len(works)].tolist(), strict=True)
        return [Decoded(tag, row, (int(id_), p), bool(finite), bool(intact))
                for tag, row, (id_, p, finite, intact) in found]  # fmt: skip

    def _tag(self, work: Work) -> Tag:
        s = work.sequence
        after = Tag(s.position + 1, digest.advance(s.digest, work.ids))
        self._pools.tag(s.slot, s.pages, s.position, after)
        return after

    def _launch(self, works: Works[Work]) -> Tensor:
        """Logits [works,vocab]; what is told of each goes to ``_told``, there when ``_done`` is."""
        rows = _power(len(works), 1, 2)
        longest = max(work.sequence.position for work in works) + 1
        pages = _power(-(-longest // self._page), FIRST_PAGES, WIDER)
        graph = self._graph(rows, pages)
        self._put_tables(works)
        self._put_inputs(works, rows)
        if graph:
            graph.replay()
        logits = graph.logits if graph else self._at_once(rows, pages)
        if self._done:
            self._done.record()
        return (logits.clone() if graph else logits)[: len(works)]  # the next replay writes over a graph's

    # what goes in

    def _put_tables(self, works: Works[Work]) -> None:
        for work in works:
            slot, table = work.sequence.slot, work.sequence.pages
            if self._of[slot] != work.request.id:
                host = torch.zeros(self._widest, dtype=torch.int32, device="cpu", pin_memory=self._on_gpu)
                host[: len(table)] = torch.tensor(table, dtype=torch.int32, device="cpu")
                self._tables[slot].copy_(host, non_blocking=True)
                self._of[slot] = work.request.id

    def _put_inputs(self, works: Works[Work], rows: int) -> None:
        """Idle rows beyond the works; all of them idle when there is none."""
        given = [(work.ids[0], work.sequence.slot, work.sequence.position + 1) for work in works]
        apart = max(rows, _APART)
        given += [(0, -1, 0)] * (apart - len(given))
        self._inputs_np[: 3 * apart] = list(chain.from_iterable(zip(*given, strict=True)))

    # the device's part

    def _at_once(self, rows: int, pages: int) -> Tensor:
        *_, logits = self._compute(rows, pages)
        assert logits is not None
        return logits

    def _compute(self, rows: int, pages: int) -> Iterator[Tensor | None]:
        """Runs the rows whose ids, slots and lengths ``_inputs_host`` has; fills ``_told``. Yields None at each of the
        CUTS, logits [rows,vocab] at the end."""
        model, pools, apart = self._model, self._pools, max(rows, _APART)
        self._inputs[: 3 * apart].copy_(self._inputs_host[: 3 * apart], non_blocking=True)
        ids, slots, lengths = self._inputs[: 3 * apart].view(3, apart)[:, :rows]
        tables, begun, written, intact = step.places(self._tables, slots, lengths, pages, self._page)
        for seals in pools.slot_seals.values():
            step.check_seals(seals.samples, seals.kept, slots, intact)
        step.check_seals(pools.page_seals.samples, pools.page_seals.kept, begun, intact)
        hidden, group = F.embedding(ids, model.embedding), self._group(rows, slots, tables, lengths)
        pieces, states, latents = Pieces((), group, None), iter(pools.states), iter(pools.pages)
        for i, layer in enumerate(model.layers):
            if i in CUTS:
                yield None
                hidden = hidden.clone()  # a launch that waits for all before it: in a graph, none of its own is
            hidden = layer.advance(hidden, pieces, next(states) if layer.recurrent else next(latents))  # type: ignore[union-attr]
        for seals in pools.slot_seals.values():
            step.put_seals(seals.samples, seals.kept, slots)
        step.put_seals(pools.page_seals.samples, pools.page_seals.kept, written)
        logits = model.logits(hidden)
        self._told[:rows].copy_(step.outcome(*ops.greedy(logits), intact), non_blocking=True)
        yield logits

    def _group(self, rows: int, slots: Tensor, tables: Tensor, lengths: Tensor) -> Group:
        packing = Packing(rows, self._ones[: rows + 1], self._ones[: rows + 1], self._ones[:rows])
        return Group(slice(0, rows), packing, slots, tables, lengths, ())

    # graphs

    def _graph(self, rows: int, pages: int) -> _Graph | None:
        """None where graphs cannot be had: the same kernels are launched one by one then."""
        if self.captures and (rows, pages) not in self._graphs:
            try:
                self._graphs[rows, pages] = self._capture(rows, pages)
            except Exception:
                log.exception("decoding goes on without a CUDA graph: %d rows, %d pages", rows, pages)
                self.captures = False
        return self._graphs.get((rows, pages)) if self.captures else None

    def _capture(self, rows: int, pages: int) -> _Graph:
        """Idle rows only: what runs while kernels are compiled and loaded writes nothing."""
        self._put_inputs((), rows)
        here, beside = torch.cuda.current_stream(self._device), torch.cuda.Stream(self._device)
        beside.wait_stream(here)
        with torch.cuda.stream(beside):
            self._at_once(rows, pages)
        torch.cuda.synchronize(self._device)
        graphs, parts, logits = list[torch.cuda.CUDAGraph](), self._compute(rows, pages), None
        while logits is None:
            graphs.append(torch.cuda.CUDAGraph())
            # other threads copy readings out meanwhile: their calls are no part of this
            with torch.cuda.graph(graphs[-1], pool=self._pool, stream=beside, capture_error_mode="thread_local"):
                logits = next(parts)
        return _Graph(graphs, logits)


def _power(count: int, first: int, base: int) -> int:
    """The smallest of first, first·base, first·base², … that is at least ``count``."""
    while first < count:
        first *= base
    return first
