"""Many clients at once on few sessions and fewer slots: refusals are fine, leaks and mixed readings are not."""

import random
import threading
from collections.abc import Callable
from typing import Any

from engine import digest
from services import errors
from services.inference.client import InferenceClient, text
from services.inference.server import InferenceServer
from tests.inference.conftest import BOOK, wait_for
from tests.inference.helpers import QUESTION, ask, books_balance, forget, read

SESSIONS = [f"s{n}" for n in range(4)]
EXPECTED = (errors.Conflict, errors.EngineFull, errors.NotFound, errors.Cancelled, errors.DeadlineExceeded)


def test_nothing_leaks_and_nothing_mixes(make_server: Callable[..., InferenceServer]) -> None:
    server = make_server(slots=7, tokens=16384)
    with InferenceClient(f"127.0.0.1:{server.port}") as client:
        for session in SESSIONS:
            client.open_session(session)
            read(client, session, f"This is {session}. " + BOOK[:400], bookmark="start")
    broken: list[BaseException] = []
    threads = [threading.Thread(target=worker, args=(server, seed, broken)) for seed in range(5)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        server.servicer.loaded.keeper.collect("default")  # type: ignore[union-attr]
    for thread in threads:
        thread.join()
    assert not broken
    wait_for(lambda: books_balance(server))
    with InferenceClient(f"127.0.0.1:{server.port}") as client:
        for session in client.list_sessions():
            check_one(client, server, session.session_id)


def check_one(client: InferenceClient, server: InferenceServer, session: str) -> None:
    """The head's digest is that of its own token log, and what is live answers like what is stored."""
    vault = server.servicer.loaded.vault  # type: ignore[union-attr]
    head = vault.head("default", session)
    segments = [ids for _, ids in vault.ids("default", vault.at("default", head.view))]
    assert digest.of_segments(segments, 64).hex() == head.digest
    live = ask(client, session, max_tokens=8).ids
    forget(server)
    assert ask(client, session, max_tokens=8).ids == live


def worker(server: InferenceServer, seed: int, broken: list[BaseException]) -> None:
    dice = random.Random(seed)
    with InferenceClient(f"127.0.0.1:{server.port}") as client:
        for n in range(14):
            try:
                act(client, dice, f"w{seed}-{n}")
            except EXPECTED:
                continue
            except BaseException as error:
                broken.append(error)
                raise


def act(client: InferenceClient, dice: random.Random, name: str) -> Any:
    session = dice.choice(SESSIONS)
    match dice.randrange(7):
        case 0:
            return read(client, session, BOOK[: dice.randrange(20, 900)], bookmark=name)
        case 1:
            return ask(client, session, max_tokens=6, keep=True)
        case 2:
            return ask(client, session, max_tokens=6)
        case 3:
            return client.fork_session(session, name, bookmark=dice.choice(["", "start"]))
        case 4:
            return client.rewind_session(session, "start")
        case 5:
            stream = client.read(session, [text(BOOK)])
            next(stream)
            return stream.close()
        case _:
            client.fork_session(session, name)
            read(client, name, "A branch.")
            return client.delete_session(name) if dice.random() < 0.5 else client.score(name, QUESTION, [text("x")])
