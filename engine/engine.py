"""The engine: token ids in, token ids out. Not thread-safe; one driver owns it and calls ``step`` while ``busy``.

``step`` samples a token for whoever decodes, runs the forwards that the scheduler planned, and reports. Position,
digest, recurrent state, convolution tail and latent pages of a sequence advance in the same forward, and the tags of
its rows with them (provenance.py); what disagrees is neither read on nor given out.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Ids

import torch
from torch import Tensor

from engine import info, memory, restore, state
from engine.cache import Cache
from engine.config import EngineConfig
from engine.copying import Copying
from engine.info import EngineInfo
from engine.model import KimiLinear
from engine.pools import Pools
from engine.request import Event
from engine.restore import SnapshotMismatch
from engine.runner import Runner
from engine.sampler import SamplingParams
from engine.sequences import Sequence, SequenceBusy, Sequences
from engine.state import Copied, Exported, Snapshot


class Engine:
    def __init__(self, model: KimiLinear, config: EngineConfig | None = None) -> None:
        self.model, self.config = model, config or EngineConfig()
        memory.require(self.config, model.config, model.device, model.dtype)
        self.pools = Pools(model.config, self.config, model.device, model.dtype, model.tail_dtype)
        self._cache = Cache(self.config.max_slots, self.config.pages, self.config.page_tokens)
        self._sequences = Sequences(self._cache, self.pools)
        self._runner = Runner(model, self.config, self.pools, self._sequences)

    # sequences

    @torch.inference_mode()
    def open(self) -> int:
        return self._sequences.open().id

    @torch.inference_mode()
    def fork(self, seq: int) -> int:
        """A second sequence at the same point. Takes a slot and at most one page."""
        return self._sequences.fork(self._sequences.whole(seq)).id

    def close(self, seq: int) -> None:
        """The one way back for slot and pages: of a whole sequence, a running one, one that is being restored."""
        sequence = self._sequences[seq]
        self._runner.abort_of(sequence)
        self._sequences.close(sequence)

    def position(self, seq: int) -> int:
        return self._sequences.whole(seq).position

    def digest(self, seq: int) -> bytes:
        return self._sequences.whole(seq).digest

    # state out

    @torch.inference_mode()
    def export(self, seq: int, first: int = 0) -> Exported:
        """State and the latents from position ``first`` on, also in the middle of a read: it stands on the grid then.

        Raises ProvenanceError when a tag, the sequence's own book or a seal disagrees (the sequence is left as it is:
        close it); ValueError when ``first`` is beyond the position.
        """
        return self.copy_out(seq, first).to_host()

    @torch.inference_mode()
    def copy_out(self, seq: int, first: int = 0) -> Copied:
        """The same, for whoever lets the engine go on while the copy is brought over: ``to_host``, from any thread."""
        return state.copy_out(self.pools, self._sequences.whole(seq), first)

    @torch.inference_mode()
    def snapshot(self, seq: int) -> Snapshot:
        s = self._sequences.whole(seq)
        return Snapshot(s.position, s.digest, state.copy_state(self.pools, s))

    @torch.inference_mode()
    def latents(self, seq: int, start: int, stop: int) -> Tensor:
        return state.copy_latents(self.pools, self._sequences.whole(seq), start, stop)

    # state in

    @torch.inference_mode()
    def begin_restore(self, position: int) -> int:
        """A sequence with memory for ``position`` tokens, of no use until finish_restore. EngineFull: nothing taken."""
        if not 0 <= position <= self.model.config.model_max_length:
            raise ValueError(f"position {position}; the model reads {self.model.config.model_max_length} tokens")
        sequence = self._sequences.open(self._cache.pages_for(position))
        sequence.put = torch.zeros(position, dtype=torch.bool, device="cpu")
        return sequence.id

    @torch.inference_mode()
    def put_latents(self, seq: int, first: int, latents: Tensor) -> None:
        """latents [Lm,n,R+r] in the pool's dtype, of positions first..first+n: in any order, cut anywhere.

        Copied when this returns; fastest from pinned memory. Raises SnapshotMismatch; what was put before stays.
        """
        restore.put(self.pools, self._sequences[seq], first, latents)

    @torch.inference_mode()
    def finish_restore(self, seq: int, snapshot: Snapshot) -> None:
        """Makes the sequence usable. SnapshotMismatch (also for latents never put) leaves it unusable: close it."""
        restore.finish(self.pools, self._sequences[seq], snapshot)

    def restore(self, snapshot: Snapshot, latents: Tensor) -> int:
        """The three above in one. latents [Lm,position,R+r]. After any error the engine is as before."""
        restore.check(self.pools, snapshot)
        if latents.shape[1:2] != (snapshot.position,):
            raise SnapshotMismatch(f"latents: {list(latents.shape)}, a snapshot at {snapshot.position}")
        seq = self.begin_restore(snapshot.position)
        try:
            self.put_latents(seq, 0, latents)
            self.finish_restore(seq, snapshot)
        except BaseException:
            self.close(seq)
            raise
        return seq

    # requests

    def read(self, seq: int, ids: Ids[int], score: bool = False) -> int:
        if not ids:
            raise ValueError("a segment has at least one token")
        self._check_ids(ids)
        sequence = self._ready(seq, len(ids))
        sequence.logits = sequence.best = None
        return self._runner.read(sequence, list(ids), score)

    def generate(
        self, seq: int, params: SamplingParams, forced: Iterable[int] = (), copying: Copying | None = None
    ) -> int:
        """``copying`` holds what stands in quotes to a source; outside of quotes nothing changes by a bit."""
        first = list(forced)
        self._check_ids(first)
        if copying:
            self._check_ids([copying.open, copying.close, *(source.largest for source in copying.sources)])
            copying.check(first)
        if self._sequences.whole(seq).logits is None:
            raise ValueError("nothing to decode from: the sequence has read no segment to its end here")
        return self._runner.generate(self._ready(seq, params.max_tokens), params, first, copying)

    def abort(self, request: int) -> None:
        """Ends a request where it stands; Done("aborted") is reported by the next step. Unknown or ended: no effect."""
        self._runner.abort(request)

    def _ready(self, seq: int, tokens: int) -> Sequence:
        """A sequence free to run, with pages for ``tokens`` more."""
        sequence = self._sequences.whole(seq)
        if running := self._runner.request_of(sequence):
            raise SequenceBusy(f"sequence {seq} is running request {running.id}")
        end = sequence.position + tokens
        if end > self.model.config.model_max_length:
            raise ValueError(f"{end} tokens; the model reads {self.model.config.model_max_length}")
        self._sequences.reserve(sequence, tokens)
        return sequence

    def _check_ids(self, ids: Ids[int]) -> None:
        vocab = self.model.config.vocab_size
        if ids and (min(ids) < 0 or max(ids) >= vocab):
            raise ValueError(f"ids from {min(ids)} to {max(ids)}; the vocabulary has 0..{vocab - 1}")

    @property
    def busy(self) -> bool:
        return self._runner.busy

    @torch.inference_mode()
    def step(self) -> list[Event]:
        return self._runner.step()

    # what is going on

    def describe(self) -> EngineInfo:
        return info.describe(self.model, self.config, self.pools, self._cache)

    def check_idle(self) -> None:
        """Recounts pages, slots and references against the live sequences; raises BooksError when they differ."""
        self._sequences.recount(running=self._runner.running)
