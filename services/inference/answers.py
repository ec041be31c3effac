"""Generate and Score: what is decoded from a reading.

An answer is decoded on a fork and, if it is to be kept, read afterwards as a segment of its own. So the rounding of
one-token steps never enters a reading, and a call that breaks off has touched nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

from engine import Done, Engine, Event, SamplingParams, Token
from services import errors
from services.inference.calls import Call, bookmark_name, session_id
from services.inference.decoding import Decoding
from services.inference.pb import inference_pb2 as pb
from services.inference.quoting import Quoting, quoting
from services.inference.service import Service
from services.inference.taking import Work
from services.inference.text import encode_part, encode_parts, special_id, text_bytes
from services.vault.heads import Head

_MAX_TOKENS = 128


def generate(service: Service, request: pb.GenerateRequest, call: Call) -> Iterator[pb.GenerateChunk]:
    parts = [encode_part(service.tokenizer, part) for part in request.prompt]
    prompt, forced = _joined(parts), encode_parts(service.tokenizer, request.forced)
    call.facts.update(session=request.session_id, tokens_in=len(prompt))
    with _head(service, request, call) as head:
        position = head.position if head else 0
        params = _sampling(service, request.sampling, len(forced), position + len(prompt))
        with service.readings.work(call.tenant, head, call.stop) as work, ThreadPoolExecutor(1, "quoting") as beside:
            # While the prompt is read; not while the state comes back, which keeps all cores busy.
            quotes = beside.submit(_quoting, service, request, parts, forced, call.tenant, work.head)
            yield from Answer(service, work, request, call, params, quotes.result).chunks(prompt, forced)


def _quoting(
    service: Service,
    request: pb.GenerateRequest,
    parts: list[list[int]],
    forced: list[int],
    tenant: str,
    head: Head,
) -> Quoting | None:
    """None: quotes are as free as the rest."""
    if not request.sampling.HasField("copy"):
        return None
    found = quoting(request.sampling.copy, service.tokenizer, service.sources, request.prompt, parts, tenant, head)
    found.check(forced)
    return found


@contextmanager
def _head(service: Service, request: pb.GenerateRequest, call: Call) -> Iterator[Head | None]:
    """Of the session, taken for writing when the answer is kept; None for a scratch session."""
    if not request.session_id:
        if request.keep:
            raise errors.InvalidInput("keep needs a session_id", field="keep")
        yield None
        return
    name, digest, readings = session_id(request.session_id), request.expected_digest, service.readings
    if request.keep:
        with readings.writing(call.tenant, name, digest, bookmark_name(request.bookmark)) as head:
            yield head
    else:
        yield readings.head(call.tenant, name, digest)


class Answer:
    def __init__(
        self,
        service: Service,
        work: Work,
        request: pb.GenerateRequest,
        call: Call,
        params: SamplingParams,
        quotes: Callable[[], Quoting | None],
    ) -> None:
        self.service, self.work, self.call, self.params, self.request = service, work, call, params, request
        self._quotes, sampling = quotes, request.sampling
        self.decoding = Decoding(service.tokenizer, sampling.stop, params.stop_ids, sampling.logprobs)
        self.reason = pb.FINISH_REASON_LENGTH

    def chunks(self, prompt: list[int], forced: list[int]) -> Iterator[pb.GenerateChunk]:
        work, readings, call = self.work, self.service.readings, self.call
        start, started = work.position, time.monotonic()
        for _ in readings.read(work, "prompt", prompt, call.stop):
            pass
        self.quotes = self._quotes()
        read_done, first_token_ms = time.monotonic(), 0.0
        for chunk in self._decode(forced):
            first_token_ms = first_token_ms or call.ms
            yield chunk
        decoded = time.monotonic()
        head = self._keep() if self.request.keep else work.head
        told = usage(
            work,
            start,
            len(prompt),
            completion_tokens=len(self.decoding.ids),
            read_ms=(read_done - started) * 1000,
            decode_ms=(decoded - read_done) * 1000,
            first_token_ms=first_token_ms,
        )
        call.facts.update(
            tokens_out=told.completion_tokens,
            reused=work.resumed,
            recomputed=work.recomputed,
            restore_ms=round(work.restore_ms, 1),
            first_token_ms=round(first_token_ms, 1),
            tok_s=round(told.completion_tokens / max(decoded - read_done, 1e-6), 1),
        )
        last = self.decoding.last(self.reason, told, head_message(head), head.position)
        last.quotes.extend(self.quotes.found(self.decoding.ids) if self.quotes else ())
        yield last

    def _decode(self, forced: list[int]) -> Iterator[pb.GenerateChunk]:
        fork: list[int] = []

        def start(engine: Engine) -> int:
            """In one command: while a book is being read, every command waits for a chunk of it."""
            if not fork:  # not so when the driver had to make room and starts again
                fork.append(engine.fork(self.work.seq))
            return engine.generate(fork[0], self.params, forced, self.quotes.copying if self.quotes else None)

        driver = self.service.driver
        try:
            with closing(driver.run(start, self.call.stop)) as events:
                for event in events:
                    yield from self._heard(event)
                    if self.decoding.stopped:
                        self.reason = pb.FINISH_REASON_STOP
                        break
        finally:
            for seq in fork:
                driver.close(seq)
        yield from self.decoding.finish()

    def _heard(self, event: Event) -> Iterator[pb.GenerateChunk]:
        if isinstance(event, Token):
            yield from self.decoding.feed(event.id, event.logprob)
        elif isinstance(event, Done) and event.reason == "stop":
            self.reason = pb.FINISH_REASON_STOP

    def _keep(self) -> Head:
        readings = self.service.readings
        if ids := self.decoding.kept_ids():
            for _ in readings.read(self.work, "answer", ids, self.call.stop):
                pass
        self.call.stop.check()
        return readings.save(self.work, self.request.bookmark)


def score(service: Service, request: pb.ScoreRequest, call: Call) -> pb.ScoreReply:
    """Prompt and continuation are one segment: the first continued token needs the prompt's last logits."""
    parts = [encode_part(service.tokenizer, part) for part in request.prompt]
    prompt, continuation = _joined(parts), encode_parts(service.tokenizer, request.continuation)
    call.facts.update(session=request.session_id, tokens_in=len(prompt) + len(continuation))
    head = service.vault.head(call.tenant, session_id(request.session_id)) if request.session_id else None
    check_room(service, (head.position if head else 0) + len(prompt) + len(continuation))
    with service.readings.work(call.tenant, head, call.stop) as work:
        events = service.readings.read(work, "score", prompt + continuation, call.stop, score=True)
        scored = [event for event in events if isinstance(event, Token)][len(prompt) - 1 :]
        call.facts["recomputed"] = work.recomputed
    return pb.ScoreReply(
        logprob=sum(token.logprob for token in scored),
        tokens=len(continuation),
        bytes=len(text_bytes(service.tokenizer, continuation)),
        token_logprobs=[token.logprob for token in scored],
        greedy=all(token.likeliest for token in scored),
    )


def _joined(parts: list[list[int]]) -> list[int]:
    ids = [i for part in parts for i in part]
    if not ids:
        raise errors.InvalidInput("the prompt is empty: there is nothing to go on from", field="prompt")
    return ids


def _sampling(service: Service, asked: pb.Sampling, forced: int, position: int) -> SamplingParams:
    """The answer is at least as long as what is forced, and ends where the engine's memory does."""
    check_room(service, position + forced + 1)
    wanted = max(asked.max_tokens or _MAX_TOKENS, forced + 1)
    try:
        return SamplingParams(
            temperature=asked.temperature,
            top_p=asked.top_p or 1.0,
            top_k=asked.top_k,
            seed=asked.seed,
            max_tokens=min(wanted, service.context_tokens - position),
            stop_ids=_stop_ids(service, asked),
        )
    except ValueError as error:
        raise errors.InvalidInput(str(error), field="sampling") from error


def _stop_ids(service: Service, asked: pb.Sampling) -> tuple[int, ...]:
    if asked.stop_specials:
        return tuple(special_id(service.tokenizer, name) for name in asked.stop_specials)
    known = "<|end|>" in service.tokenizer.specials
    return (special_id(service.tokenizer, "end"),) if known else service.eos_ids


def usage(work: Work, start: int, fed: int, **rest: float) -> pb.Usage:
    """`start`: where the session stood; `fed`: tokens read from there on. What was computed again counts as read."""
    return pb.Usage(
        prompt_tokens=start + fed,
        read_tokens=start - work.resumed + fed,
        resumed_tokens=work.resumed,
        restore_ms=work.restore_ms,
        recomputed=work.recomputed,
        shared_tokens=work.shared,
        **rest,  # type: ignore[arg-type]
    )


def check_room(service: Service, position: int) -> None:
    if position > service.context_tokens:
        raise errors.ContextLimit(
            f"{position} tokens; this engine holds {service.context_tokens}",
            tokens=position,
            context_tokens=service.context_tokens,
        )


def head_message(head: Head) -> pb.Head:
    return pb.Head(position=head.position, digest=head.digest, epoch=head.epoch)
