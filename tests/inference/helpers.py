"""What tests say to a server, in short."""

from dataclasses import dataclass
from typing import Any

from services.inference.client import InferenceClient, special, text
from services.inference.pb import inference_pb2 as pb
from services.inference.server import InferenceServer

QUESTION = [special("question"), text("Which hour did the clocks strike?"), special("answer")]


@dataclass
class Said:
    text: str
    ids: list[int]
    specials: list[str]
    logprobs: list[float]
    last: pb.GenerateChunk


def read(client: InferenceClient, session: str, words: str, **options: Any) -> pb.ReadProgress:
    return list(client.read(session, [text(words)], **options))[-1]


def ask(client: InferenceClient, session: str, prompt: Any = QUESTION, **options: Any) -> Said:
    chunks = list(client.generate(session, prompt, **({"max_tokens": 24} | options)))
    return Said(
        text="".join(chunk.text for chunk in chunks),
        ids=[i for chunk in chunks for i in chunk.token_ids],
        specials=[chunk.special for chunk in chunks if chunk.special],
        logprobs=[p for chunk in chunks for p in chunk.logprobs],
        last=chunks[-1],
    )


def forget(server: InferenceServer, *, tenant: str = "default") -> None:
    """As if the engine had needed the room: the next call takes the reading from the vault."""
    service = server.servicer.loaded
    assert service is not None
    service.driver.forget(tenant)


def forget_all(server: InferenceServer, *, tenant: str = "default") -> None:
    """As another process would find the vault: nothing live, nothing in the ring, no manifest in memory."""
    forget(server, tenant=tenant)
    store = server.servicer.loaded.vault.store  # type: ignore[union-attr]
    store.forget(tenant, [name for _, name in list(store._manifests)])
    store.ring.forget(list(store.ring._published))


def books_balance(server: InferenceServer) -> bool:
    """No request runs, every page and slot is accounted for, and only kept readings are live."""
    driver = server.servicer.loaded.driver  # type: ignore[union-attr]

    def look(engine: Any) -> bool:
        engine.check_idle()
        return not engine.busy and len(engine._sequences) == len(driver._live)

    return driver.call(look)
