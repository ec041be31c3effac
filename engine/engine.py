"""The engine: token ids in, token ids out. Not thread-safe; one driver owns it and calls ``step`` while ``busy``.

``step`` samples a token for whoever decodes, runs the forwards that the scheduler planned, and reports. Position,
digest, recurrent state, convolution tail and latent pages of a sequence advance in the same forward.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from engine import digest
from engine.cache import BooksError, Cache
from engine.config import EngineConfig
from engine.model import Batch, KimiLinear, Piece
from engine.pools import Pools
from engine.provenance import Tag
from engine.request import Done, Event, Generate, Progress, Read, Reason, Request, Restoring, Sequence, Token
from engine.sampler import SamplingParams, logprob, sample
from engine.scheduler import Scheduler
from kernels import REVISION


class UnknownSequence(KeyError):
    """No live sequence has this number: it was closed, or ended with an error."""


class SequenceBusy(RuntimeError):
    """The sequence has a request running; one at a time."""


class SnapshotMismatch(ValueError):
    """A snapshot or its latents do not fit this engine's model. Nothing was changed."""


@dataclass(frozen=True)
class Snapshot:
    """A sequence's state of fixed size; with the latents of positions 0..position it is the whole reading."""

    position: int
    digest: bytes
    tensors: dict[str, Tensor]  # "kda" [Lk,H,K,V] fp32, "conv" [Lk,W-1,3C]


@dataclass(frozen=True)
class Exported:
    """A reading on its way out, and what the rows it was copied from say of themselves."""

    position: int
    digest: bytes
    tensors: dict[str, Tensor]  # as in Snapshot
    latents: Tensor  # [Lm, position - first, R+r]: positions first..position
    tags: tuple[Tag, ...]  # of the slot, per KDA layer; then of the last page, per MLA layer


@dataclass(frozen=True)
class EngineInfo:
    slots_total: int
    slots_free: int
    pages_total: int
    pages_free: int
    page_tokens: int
    page_bytes: int  # latents of one page over all MLA layers
    snapshot_bytes: int
    device: str
    contract: dict[str, str]  # what, besides the weights and the tokens, decides the bits of a reading


@dataclass(frozen=True)
class Work:
    """Rows that one sequence feeds in one forward."""

    request: Request
    ids: Ids[int]


class Engine:
    def __init__(self, model: KimiLinear, config: EngineConfig | None = None) -> None:
        self.model, self.config = model, config or EngineConfig()
        self.pools = Pools.allocate(model.config, self.config, model.device, model.dtype)
        self._cache = Cache(self.config.max_slots, self.config.pages, self.config.page_tokens)
        self._scheduler = Scheduler(self.config.grid, self.config.prefill_tokens_per_step, self.config.deterministic)
        self._sequences: dict[int, Sequence] = {}
        self._requests: dict[int, Request] = {}
        self._by_sequence: dict[int, Request] = {}
        self._numbers = count(1)
        self._events: list[Event] = []

    # sequences

    def open(self) -> int:
        sequence = self._new(pages=0)
        return sequence.id

    @torch.inference_mode()
    def fork(self, seq: int) -> int:
        """Full pages are shared; the last, partial page and the slot are copied."""
        parent = self._whole(seq)
        full = parent.position // self.config.page_tokens
        partial = self._cache.pages_for(parent.position) - full
        child = self._new(partial)
        if partial:
            self.pools.copy_page(parent.pages[full], child.pages[0])
        child.pages = self._cache.share(parent.pages[:full]) + child.pages
        self.pools.copy_slot(parent.slot, child.slot)
        child.position, child.digest, child.logits = parent.position, parent.digest, parent.logits
        return child.id

    def close(self, seq: int) -> None:
        sequence = self._get(seq)
        if seq in self._by_sequence:
            self.abort(self._by_sequence[seq].id)
        self._give_back(sequence, keep=0, slot=True)
        del self._sequences[seq]

    def position(self, seq: int) -> int:
        return self._get(seq).position

    def digest(self, seq: int) -> bytes:
        return self._get(seq).digest

    # state out and in

    @torch.inference_mode()
    def snapshot(self, seq: int) -> Snapshot:
        s = self._whole(seq)
        tensors = {"kda": self.pools.kda[:, s.slot], "conv": self.pools.conv[:, s.slot]}
        return Snapshot(s.position, s.digest, {name: x.detach().cpu().clone() for name, x in tensors.items()})

    @torch.inference_mode()
    def latents(self, seq: int, start: int, stop: int) -> Tensor:
        s = self._whole(seq)
        if not 0 <= start <= stop <= s.position:
            raise ValueError(f"latents {start}..{stop} of a sequence at position {s.position}")
        return self.pools.gather(s.pages, start, stop).cpu()

    @torch.inference_mode()
    def export(self, seq: int, first: int = 0) -> Exported:
        s, snapshot = self._whole(seq), self.snapshot(seq)
        tags = tuple(Tag(s.position, s.digest) for _ in range(self.model.config.num_layers))
        return Exported(s.position, s.digest, snapshot.tensors, self.latents(seq, first, s.position), tags)

    def begin_restore(self, position: int) -> int:
        if not 0 <= position <= self.model.config.model_max_length:
            raise ValueError(f"position {position}; the model reads {self.model.config.model_max_length}")
        sequence = self._new(self._cache.pages_for(position))
        sequence.restoring = Restoring(position, torch.zeros(position, dtype=torch.bool))
        return sequence.id

    @torch.inference_mode()
    def put_latents(self, seq: int, first: int, latents: Tensor) -> None:
        s, restoring = self._get(seq), self._restoring(seq)
        pool, stop = self.pools.latents, first + latents.shape[1]
        if latents.dtype != pool.dtype or latents.shape[::2] != pool.shape[::3]:
            raise SnapshotMismatch(f"latents {latents.dtype} {list(latents.shape)}")
        if not 0 <= first <= stop <= restoring.position:
            raise SnapshotMismatch(f"latents {first}..{stop} of a reading of {restoring.position} tokens")
        self.pools.scatter(s.pages, first, latents)
        restoring.put[first:stop] = True

    @torch.inference_mode()
    def finish_restore(self, seq: int, snapshot: Snapshot) -> None:
        s, restoring = self._get(seq), self._restoring(seq)
        if snapshot.position != restoring.position or not bool(restoring.put.all()):
            raise SnapshotMismatch(f"position {snapshot.position}, latents put: {int(restoring.put.sum())}")
        self._check_snapshot(snapshot)
        self.pools.kda[:, s.slot] = snapshot.tensors["kda"].to(self.model.device)
        self.pools.conv[:, s.slot] = snapshot.tensors["conv"].to(self.model.device)
        s.position, s.digest, s.restoring = snapshot.position, snapshot.digest, None

    def restore(self, snapshot: Snapshot, latents: Tensor) -> int:
        self._check_snapshot(snapshot)
        if tuple(latents.shape[1:2]) != (snapshot.position,):
            raise SnapshotMismatch(f"latents {list(latents.shape)} of a snapshot at {snapshot.position}")
        seq = self.begin_restore(snapshot.position)
        try:
            self.put_latents(seq, 0, latents)
            self.finish_restore(seq, snapshot)
        except BaseException:
            self.close(seq)
            raise
        return seq

    def _whole(self, seq: int) -> Sequence:
        sequence = self._get(seq)
        if sequence.restoring:
            raise SequenceBusy(f"sequence {seq} is being restored; finish_restore or close it")
        return sequence

    def _restoring(self, seq: int) -> Restoring:
        restoring = self._get(seq).restoring
        if restoring is None:
            raise ValueError(f"sequence {seq} is not being restored")
        return restoring

    def _check_snapshot(self, snapshot: Snapshot) -> None:
        pools, position = self.pools, snapshot.position
        want = {
            "kda": (pools.kda.dtype, pools.kda[:, 0].shape),
            "conv": (pools.conv.dtype, pools.conv[:, 0].shape),
        }
        found = {name: (x.dtype, tuple(x.shape)) for name, x in snapshot.tensors.items()}
        wrong = [name for name in want.keys() | found.keys() if found.get(name) != _plain(want.get(name))]
        if wrong:
            raise SnapshotMismatch("; ".join(f"{n}: {found.get(n)}, expected {want.get(n)}" for n in sorted(wrong)))
        if position < 0 or len(snapshot.digest) != 32 or (position == 0) != (snapshot.digest == digest.START):
            raise SnapshotMismatch(f"position {position} and digest {snapshot.digest.hex()} do not belong together")

    # requests

    def read(self, seq: int, ids: Ids[int], score: bool = False) -> int:
        if not ids:
            raise ValueError("a segment has at least one token")
        self._check_ids(ids)
        sequence = self._ready(seq, len(ids))
        sequence.logits = None
        return self._start(Read(next(self._numbers), seq, list(ids), score))

    def generate(self, seq: int, params: SamplingParams, forced: Iterable[int] = ()) -> int:
        first = list(forced)
        self._check_ids(first)
        if self._whole(seq).logits is None:
            raise ValueError("nothing to decode from: the sequence has read no segment to its end here")
        self._ready(seq, params.max_tokens)
        return self._start(Generate(next(self._numbers), seq, params, first))

    def abort(self, request: int) -> None:
        """Ends a request where it stands; Done("aborted") is reported by the next step. Unknown or ended: no effect."""
        if request in self._requests:
            self._finish(self._requests[request], "aborted")

    def _ready(self, seq: int, tokens: int) -> Sequence:
        """A sequence free to run, with pages for ``tokens`` more: what is admitted never stops for memory."""
        sequence = self._whole(seq)
        if seq in self._by_sequence:
            raise SequenceBusy(f"sequence {seq} is running request {self._by_sequence[seq].id}")
        end = sequence.position + tokens
        if end > self.model.config.model_max_length:
            raise ValueError(f"{end} tokens; the model reads {self.model.config.model_max_length}")
        sequence.pages += self._cache.take_pages(self._cache.pages_for(end) - len(sequence.pages))
        return sequence

    def _check_ids(self, ids: Ids[int]) -> None:
        vocab = self.model.config.vocab_size
        if ids and (min(ids) < 0 or max(ids) >= vocab):
            raise ValueError(f"ids from {min(ids)} to {max(ids)}; the vocabulary has 0..{vocab - 1}")

    def _start(self, request: Request) -> int:
        self._requests[request.id] = self._by_sequence[request.sequence] = request
        self._scheduler.add(request)
        return request.id

    # the loop

    @property
    def busy(self) -> bool:
        return bool(self._requests or self._events)

    @torch.inference_mode()
    def step(self) -> list[Event]:
        plan = self._scheduler.plan()
        decodes = [Work(request, [token]) for request in plan.decodes if (token := self._decode(request)) is not None]
        for works in self._forwards(decodes, plan.chunks):
            self._forward(works)
        events, self._events = self._events, []
        return events

    def _decode(self, request: Generate) -> int | None:
        """The next token of a request; None when it was its last, which is not fed."""
        sequence = self._get(request.sequence)
        logits = sequence.logits
        assert logits is not None, f"sequence {sequence.id} decodes without logits"
        forced = request.count < len(request.forced)
        token = request.forced[request.count] if forced else sample(logits, request.params, sequence.position)
        request.count += 1
        self._report(request, logits, token)
        if token in request.params.stop_ids and not forced:
            self._finish(request, "stop")
        elif request.count == request.params.max_tokens:
            self._finish(request, "length")
        else:
            return token
        return None

    def _report(self, request: Request, logits: Tensor, token: int) -> None:
        likeliest = int(logits.argmax()) == token
        self._events.append(Token(request.id, token, logprob(logits, token), likeliest))

    def _forwards(self, decodes: list[Work], chunks: list[tuple[Read, int]]) -> list[list[Work]]:
        """One work a forward when deterministic; else all in one, a reader's chunks joined."""
        cursor = {read.id: read.done for read, _ in chunks}
        works = []
        for read, tokens in chunks if self.config.deterministic else _joined(chunks):
            works.append(Work(read, read.ids[cursor[read.id] : cursor[read.id] + tokens]))
            cursor[read.id] += tokens
        if self.config.deterministic:
            return [[work] for work in decodes + works]
        return [decodes + works] if decodes or works else []

    def _forward(self, works: list[Work]) -> None:
        works = [work for work in works if work.request.id in self._requests]  # one may have failed in this step
        if not works:
            return
        pieces, start = [], 0
        for work in works:
            s = self._get(work.request.sequence)
            table = torch.tensor(s.pages[: self._cache.pages_for(s.position + len(work.ids))])
            rows = slice(start, start + len(work.ids))
            pieces.append(Piece(rows, s.slot, table.to(self.model.device), s.position))
            start = rows.stop
        fed = [token for work in works for token in work.ids]
        if self.config.deterministic and len(fed) > 1:
            fed += [0] * (-len(fed) % self.config.grid)  # rows of no piece: every matmul has one of two shapes
        ids = torch.tensor(fed, device=self.model.device)
        try:
            hidden = self.model.forward(Batch(ids, tuple(pieces)), self.pools)
        except Exception as error:  # half a forward has advanced some layers and not others
            for work in works:
                self._fail(work.request, f"{type(error).__name__}: {error}")
            return
        for work, piece in zip(works, pieces, strict=True):
            self._advance(work, hidden[piece.rows])

    def _advance(self, work: Work, hidden: Tensor) -> None:
        """Books what a forward did to one sequence: position, digest, logits, events."""
        request, s = work.request, self._get(work.request.sequence)
        s.position += len(work.ids)
        for start in range(0, len(work.ids), self.config.grid):
            s.digest = digest.advance(s.digest, work.ids[start : start + self.config.grid])
        if isinstance(request, Read):
            request.done += len(work.ids)
            if request.score:
                self._score(request, len(work.ids), hidden)
        last = isinstance(request, Generate) or request.done == len(request.ids)
        s.logits = self.model.logits(hidden[-1:])[0] if last else None
        if not bool((hidden.sum() if s.logits is None else s.logits.sum() + hidden.sum()).isfinite()):
            self._fail(request, f"not a number at position {s.position}")
        elif isinstance(request, Read):
            self._events.append(Progress(request.id, request.done, len(request.ids)))
            if last:
                self._finish(request, "read")

    def _score(self, request: Read, fed: int, hidden: Tensor) -> None:
        """Reports the ids that follow the rows just fed, as far as the segment goes."""
        following = request.ids[request.done - fed + 1 : request.done + 1]
        if following:
            for logits, token in zip(self.model.logits(hidden[: len(following)]), following, strict=True):
                self._report(request, logits, token)

    # giving back

    def _fail(self, request: Request, error: str) -> None:
        """Ends a request whose sequence cannot be trusted any more, and the sequence with it."""
        s = self._get(request.sequence)
        self._finish(request, "error", error)
        self.close(s.id)

    def _finish(self, request: Request, reason: Reason, error: str | None = None) -> None:
        s = self._get(request.sequence)
        self._scheduler.remove(request)
        del self._requests[request.id], self._by_sequence[s.id]
        self._give_back(s, keep=self._cache.pages_for(s.position))
        self._events.append(Done(request.id, reason, s.position, s.digest, error))

    def _give_back(self, sequence: Sequence, keep: int, slot: bool = False) -> None:
        """Every page and every slot goes back here: pages beyond ``keep``, and the slot when the sequence closes."""
        self._cache.give_back(sequence.pages[keep:], sequence.slot if slot else None)
        del sequence.pages[keep:]

    def _new(self, pages: int) -> Sequence:
        slot = self._cache.take_slot(pages)
        self.pools.zero_slot(slot)
        sequence = Sequence(next(self._numbers), slot, self._cache.take_pages(pages))
        self._sequences[sequence.id] = sequence
        return sequence

    def _get(self, seq: int) -> Sequence:
        if seq not in self._sequences:
            raise UnknownSequence(seq)
        return self._sequences[seq]

    # what is going on

    def describe(self) -> EngineInfo:
        pools = self.pools
        return EngineInfo(
            slots_total=self.config.max_slots,
            slots_free=self._cache.free_slots,
            pages_total=self.config.pages,
            pages_free=self._cache.free_pages,
            page_tokens=self.config.page_tokens,
            page_bytes=pools.latents[:, 0].nbytes,
            snapshot_bytes=pools.kda[:, 0].nbytes + pools.conv[:, 0].nbytes,
            device=str(self.model.device),
            contract=self._contract(),
        )

    def _contract(self) -> dict[str, str]:
        cuda = self.model.device.type == "cuda"
        threads = "any" if cuda or self.model.config.any_threads else str(torch.get_num_threads())
        return {
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "grid": str(self.config.grid),
            "kernels": REVISION,
            "torch": torch.__version__,
            "hardware": torch.cuda.get_device_name() if cuda else torch.backends.cpu.get_cpu_capability(),
            "threads": threads,
            "deterministic": str(self.config.deterministic).lower(),
        }

    def check_idle(self) -> None:
        """Recounts pages, slots and references against the live sequences; raises BooksError when they differ."""
        live = list(self._sequences.values())
        self._cache.recount([s.slot for s in live], [s.pages for s in live])
        for s in live:
            end = s.restoring.position if s.restoring else s.position
            if s.id not in self._by_sequence and len(s.pages) != self._cache.pages_for(end):
                raise BooksError(f"sequence {s.id} at {s.position} holds {len(s.pages)} pages")


def _plain(spec: tuple[torch.dtype, Ids[int]] | None) -> tuple[torch.dtype, tuple[int, ...]] | None:
    return None if spec is None else (spec[0], tuple(spec[1]))


def _joined(chunks: list[tuple[Read, int]]) -> list[tuple[Read, int]]:
    """The chunks of each reader added up, in the order of first appearance."""
    totals: dict[int, int] = {}
    reads = {read.id: read for read, _ in chunks}
    for read, tokens in chunks:
        totals[read.id] = totals.get(read.id, 0) + tokens
    return [(reads[number], tokens) for number, tokens in totals.items()]
