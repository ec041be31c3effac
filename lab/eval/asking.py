"""Texts into readings, questions to them, several at a time, so that the engine batches them as it would for users."""

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

from lab.eval.run import Run
from services import errors
from services.agent import read_source
from services.agent.model import Said, listen, special, text
from services.agent.types import SourceView
from services.inference.client import InferenceClient
from services.inference.pb import inference_pb2 as pb

T = TypeVar("T")
R = TypeVar("R")
TOGETHER = 4  # questions in the engine at once; an answer takes three of its sixteen slots
ANSWER_TOKENS = 48
MODES = ("free", "copy")  # decoding: as the model likes; quotes held to what was read (Sampling.copy)
READ = ("doc", "file")  # specials before a text that may be quoted
Told = tuple[str | None, list[tuple[str, str]]]  # the answer, None for a refusal; quotes, each with its source


@contextmanager
def reading(client: InferenceClient, words: str, mark: str = "doc") -> Iterator[str]:
    """A session that has read `<|mark|>` and the text; deleted afterwards."""
    with session(client) as name:
        client.open_session(name)
        with closing(client.read(name, [special(mark), text(words)])) as stream:
            for _ in stream:
                pass
        yield name


@contextmanager
def session(client: InferenceClient) -> Iterator[str]:
    """A name for a session, whoever makes it; the session is deleted afterwards."""
    name = f"eval-{uuid.uuid4().hex[:16]}"
    try:
        yield name
    finally:
        with suppress(errors.ShioriError):
            client.delete_session(name)


def ask(
    client: InferenceClient, session_id: str, prompt: Sequence[pb.Part], mode: str = "free", most: int = ANSWER_TOKENS
) -> Said:
    """Greedy, on a fork that is thrown away; `session_id` "": the prompt alone. Mode "copy": under the constraint.

    Where retrieval found nothing that could be quoted, nobody is asked: the text does not tell.
    """
    held: dict[str, Any] = {"copy": source(session_id, prompt)} if mode == "copy" else {}
    if held and not session_id and not held["copy"].parts:
        return Said(none=True)
    with closing(client.generate(session_id, list(prompt), temperature=0.0, max_tokens=most, **held)) as stream:
        return listen(stream)


def source(session_id: str, prompt: Sequence[pb.Part]) -> pb.Copy:
    """What may be quoted: the session's text and the passages of the prompt, not the question."""
    shown = [n + 1 for n, part in enumerate(prompt) if part.special in READ]
    return pb.Copy(session=bool(session_id), parts=shown)


def answered(said: Said) -> str | None:
    """The first quote; "" when there is none; None when the model says that the text does not tell."""
    return None if said.none else (said.quotes[0].strip() if said.quotes else "")


@contextmanager
def read_in_full(run: Run, view: SourceView) -> Iterator[SourceView]:
    """The source with a reading of the whole of it, as after an upload; the reading is deleted afterwards."""

    def tell(kind: str, data: dict[str, Any]) -> None:
        if kind == "reading.progress":
            run.doing(f"reading: {data['done']:,} of {data['total']:,} tokens")

    with session(run.client) as name:
        result = read_source(run.client, view, name, tell)
        run.doing("")
        run.notes.append(f"{view.title!r}: {result.position} tokens read in full")
        yield replace(view, engine_session=name)


def told(said: Said, source_text: str) -> Told:
    return answered(said), [(quote.strip(), source_text) for quote in said.quotes]


def each(work: Callable[[T], R], items: Sequence[T], step: Callable[[], None], together: int = TOGETHER) -> list[R]:
    """The work on each item, in order, `together` at a time; `step` is told of each that is done."""

    def one(item: T) -> R:
        done = work(item)
        step()
        return done

    with ThreadPoolExecutor(together) as pool:
        futures = [pool.submit(one, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def groups(items: Iterable[T], key: Callable[[T], Any]) -> list[list[T]]:
    """Items of the same key together, in the order in which the keys first come."""
    found: dict[Any, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return list(found.values())
