"""Decoded ids to chunks of text: complete characters, specials by name, nothing of a stop string."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from services.inference.pb import inference_pb2 as pb
from services.inference.text import Detokenizer, StopStrings, Tokenizer


class Decoding:
    """Feed tokens; chunks come out. Ids and log-probabilities wait for the text that they become."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], stop_ids: Collection[int], logprobs: bool) -> None:
        self.ids: list[int] = []
        self._ends: list[int] = []  # characters decoded up to and with each id
        self._text = Detokenizer(tokenizer)
        self._stops = StopStrings(stops)
        self._stop_ids = stop_ids
        self._logprobs = logprobs
        self._decoded = 0
        self._sequence = 0
        self._waiting = pb.GenerateChunk()

    @property
    def stopped(self) -> bool:
        return self._stops.stopped

    def feed(self, token: int, logprob: float) -> Iterator[pb.GenerateChunk]:
        name = self._text.special(token)
        text = self._text.flush() if name else self._text.feed(token)
        out = self._through(text)
        if name and not self.stopped:
            out += self._stops.flush()
        if name and out:
            yield self._chunk(out)
        self._wait(token, logprob)
        if not self.stopped and (name or out):
            yield self._chunk("" if name else out, name)
        elif self.stopped and out and not name:
            yield self._chunk(out)

    def finish(self) -> Iterator[pb.GenerateChunk]:
        """What was held back: half a stop string, half a character."""
        out = self._through(self._text.flush()) + self._stops.flush()
        if out or self._waiting.token_ids:
            yield self._chunk(out)

    def kept_ids(self) -> list[int]:
        """The ids to read into the session: without those that reach into a stop string."""
        if not self.stopped:
            return self.ids
        return [token for token, end in zip(self.ids, self._ends, strict=True) if end <= self._stops.released]

    def last(self, reason: pb.FinishReason, usage: pb.Usage, head: pb.Head, durable: int) -> pb.GenerateChunk:
        return pb.GenerateChunk(
            sequence=self._sequence, finish_reason=reason, usage=usage, head=head, durable_position=durable
        )

    def _through(self, text: str) -> str:
        self._decoded += len(text)
        return "" if self.stopped else self._stops.feed(text)

    def _wait(self, token: int, logprob: float) -> None:
        self.ids.append(token)
        self._ends.append(self._decoded)
        self._waiting.token_ids.append(token)
        if self._logprobs:
            self._waiting.logprobs.append(logprob)

    def _chunk(self, text: str, special: str = "") -> pb.GenerateChunk:
        chunk, self._waiting = self._waiting, pb.GenerateChunk()
        chunk.text, chunk.special, chunk.sequence = text, special, self._sequence
        self._sequence += 1
        return chunk
