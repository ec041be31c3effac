"""A reading is a pure function of what was read: random programs over two engines that share a vault.

Whatever was read, asked, bookmarked, forked, rewound, thrown out of memory, moved to the cold tier, swept or taken up
by the other engine, with whatever company: state and logits are to the bit those of an engine that reads the same in
one go.
"""

import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import Engine, EngineConfig, SamplingParams, Token, load_model
from services.inference.client import InferenceClient, tokens
from services.inference.driver import Stop
from services.inference.server import InferenceServer
from tests.inference.helpers import books_balance, forget_all

PROMPT = [40, 41, 42, 43]
OPS = ("read", "read", "ask", "keep", "mark", "fork", "rewind", "back", "forget", "swap", "sweep", "cool", "drop")


@dataclass
class Session:
    name: str
    segments: list[list[int]] = field(default_factory=list)
    marks: dict[str, list[list[int]]] = field(default_factory=dict)

    @property
    def ids(self) -> list[int]:
        return [i for segment in self.segments for i in segment]


def cut(segments: list[list[int]], position: int) -> list[list[int]]:
    out = []
    for segment in segments:
        if position > 0:
            out.append(segment[:position])
        position -= len(segment)
    return out


class Program:
    def __init__(self, servers: list[InferenceServer], seed: int) -> None:
        self.servers, self.dice, self.count = servers, random.Random(seed), 0
        self.clients = [InferenceClient(f"127.0.0.1:{server.port}") for server in servers]
        self.which = 0
        self.sessions = [self.opened("s0")]

    @property
    def client(self) -> InferenceClient:
        return self.clients[self.which]

    def opened(self, name: str) -> Session:
        self.client.open_session(name)
        return Session(name)

    def fresh(self) -> list[int]:
        """Often a text that was read before, or one that begins like it."""
        self.count += 1
        length = self.dice.choice([1, 37, 64, 65, 128, 200, 333])
        return random.Random(self.dice.choice([1, 2, self.count])).choices(range(20, 350), k=length)

    def run(self, op: str) -> None:
        getattr(self, op)(self.dice.choice(self.sessions))

    def read(self, session: Session) -> None:
        ids = self.fresh()
        list(self.client.read(session.name, [tokens(ids)]))
        session.segments = [*session.segments, ids]

    def drop(self, session: Session) -> None:
        """A reading that is broken off: it is whole, if all of it was known or it was too fast, or it is not there."""
        ids = self.fresh() * 4
        with self.client.read(session.name, [tokens(ids)]) as stream:
            next(stream)
        while self.servers[self.which].servicer.loaded.readings._busy:  # type: ignore[union-attr]
            threading.Event().wait(0.005)
        if self.client.describe_session(session.name).head.position > len(session.ids):
            session.segments = [*session.segments, ids]

    def ask(self, session: Session) -> None:
        list(self.client.generate(session.name, [tokens(PROMPT)], max_tokens=4))

    def keep(self, session: Session) -> None:
        chunks = list(self.client.generate(session.name, [tokens(PROMPT)], max_tokens=4, keep=True))
        said = [i for chunk in chunks for i in chunk.token_ids]
        session.segments = [*session.segments, PROMPT, said] if said else [*session.segments, PROMPT]

    def mark(self, session: Session) -> None:
        name = f"m{len(session.marks)}"
        self.client.bookmark_session(session.name, name)
        session.marks[name] = session.segments

    def fork(self, session: Session) -> None:
        name = f"s{len(self.sessions)}"
        self.client.fork_session(session.name, name)
        self.sessions.append(Session(name, session.segments))

    def rewind(self, session: Session) -> None:
        if session.ids:
            position = self.dice.randrange(1, len(session.ids) + 1)
            self.client.rewind_session(session.name, position=position)
            session.segments = cut(session.segments, position)

    def back(self, session: Session) -> None:
        if session.marks:
            name = self.dice.choice(sorted(session.marks))
            self.client.rewind_session(session.name, name)
            session.segments = session.marks[name]

    def forget(self, session: Session) -> None:
        forget_all(self.servers[self.which])

    def swap(self, session: Session) -> None:
        self.which = 1 - self.which

    def sweep(self, session: Session) -> None:
        self.servers[self.which].servicer.loaded.keeper.collect("default")  # type: ignore[union-attr]

    def cool(self, session: Session) -> None:
        if session.segments:
            self.servers[self.which].servicer.loaded.keeper.tier_down("default", session.name)  # type: ignore[union-attr]


@pytest.fixture
def control(model_dir: Path) -> Callable[[list[list[int]]], Any]:
    model = load_model(model_dir)

    def read_in_one_go(segments: list[list[int]]) -> Any:
        engine = Engine(model, EngineConfig(max_tokens=32768, prefill_tokens_per_step=512))
        seq = engine.open()
        for ids in segments:
            drain(engine, engine.read(seq, ids))
        state = engine.export(seq)
        drain(engine, engine.read(seq, PROMPT))
        return state, drain(engine, engine.generate(seq, SamplingParams(max_tokens=8)))

    return read_in_one_go


def drain(engine: Engine, request: int) -> list[tuple[int, float]]:
    events = []
    while engine.busy:
        events += engine.step()
    return [(event.id, event.logprob) for event in events if isinstance(event, Token)]


@pytest.fixture
def company(request: pytest.FixtureRequest) -> Iterator[Callable[[InferenceServer], None]]:
    """Somebody else of another tenant who reads and asks all the time."""
    ended, threads = threading.Event(), []

    def chatter(server: InferenceServer) -> None:
        with InferenceClient(f"127.0.0.1:{server.port}", tenant="noise") as client:
            name = f"n{server.port}"
            client.open_session(name)
            while not ended.wait(0.01):
                list(client.generate(name, [tokens([50] * 100)], max_tokens=5))

    def start(server: InferenceServer) -> None:
        threads.append(threading.Thread(target=chatter, args=(server,)))
        threads[-1].start()

    yield start
    ended.set()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("seed", range(int(os.environ.get("SHIORI_PROGRAMS", "6"))))
def test_any_program_leads_to_the_state_of_reading_it_at_once(
    make_server: Callable[..., InferenceServer], control: Any, company: Any, seed: int
) -> None:
    servers = [make_server(rung_s=0.0 if seed % 2 else 0.02, tokens=65536) for _ in range(2)]
    if seed % 3 == 0:
        company(servers[0])
    program = Program(servers, seed)
    for op in random.Random(seed).choices(OPS, k=24):
        program.run(op)
    for session in program.sessions:
        if session.segments:
            compare(servers[seed % 2], program.clients[seed % 2], session, control(session.segments))
    assert books_balance(servers[1])


def compare(server: InferenceServer, client: InferenceClient, session: Session, wanted: Any) -> None:
    exported, said = wanted
    forget_all(server)
    service = server.servicer.loaded
    assert service
    head = service.vault.head("default", session.name)
    assert [
        i for _, ids in service.vault.ids("default", service.vault.at("default", head.view)) for i in ids
    ] == session.ids
    with service.readings.work("default", head, Stop()) as work:
        state = service.driver.call(lambda engine: engine.export(work.seq))
    assert (state.position, state.digest) == (exported.position, exported.digest)
    assert torch.equal(state.latents, exported.latents)
    assert all(torch.equal(state.tensors[name], exported.tensors[name]) for name in exported.tensors)
    chunks = list(client.generate(session.name, [tokens(PROMPT)], max_tokens=8, logprobs=True, stop_specials=["pad"]))
    ids = [i for chunk in chunks for i in chunk.token_ids]
    logprobs = [p for chunk in chunks for p in chunk.logprobs]
    assert ids == [i for i, _ in said][: len(ids)]
    assert logprobs == pytest.approx([p for _, p in said][: len(logprobs)], abs=1e-6)
