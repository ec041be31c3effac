"""Resume, by equality: what was killed, evicted, harmed or read by another model answers as if nothing had happened,
or says that it cannot. Never something else."""

import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
import torch

from engine import Engine, EngineConfig, load_model
from engine.testing import save_random_checkpoint
from services import errors
from services.inference.client import InferenceClient, text
from services.inference.driver import Stop
from services.inference.server import InferenceServer
from services.inference.text import encode_parts, load_tokenizer
from services.vault.store import block_key, manifest_key
from tests.inference.conftest import BOOK, ServerProcess, wait_for
from tests.inference.helpers import QUESTION, ask, books_balance, forget_all, read
from tests.vault.test_vault import hurt

CHAPTERS = [BOOK[:1500], "Chapter two. " + BOOK[300:2800], "Chapter three: " + BOOK[:700]]


def test_a_killed_engine_is_resumed_by_another(
    start_process: Callable[[], ServerProcess], make_server: Callable[..., InferenceServer], model_dir: Path
) -> None:
    """Segments of random length; killed while reading; the next process goes on. Tokens and state equal the control."""
    dice = random.Random(5)
    steps = [BOOK[:length] for length in dice.choices(range(40, 1200), k=4)]
    first, second = start_process(), start_process()
    with first.client() as client:
        client.open_session("a")
        for n, step in enumerate(steps[:2]):
            saved = read(client, "a", step, bookmark=f"step {n}")
        stream = client.read("a", [text(BOOK * 5)])
        next(stream)
        first.kill()
        with pytest.raises(errors.ShioriError):
            list(stream)
    with second.client() as client:
        session = client.describe_session("a")
        assert session.head.digest == saved.head.digest and not session.live
        for step in steps[2:]:
            read(client, "a", step)
        said = ask(client, "a", max_tokens=32)
    control, tokens = unbroken(model_dir, steps)
    assert said.ids == tokens
    assert second.terminate() == 0
    assert_same_state(make_server().servicer.loaded, control)


def unbroken(model_dir: Path, steps: list[str]) -> tuple[tuple[Any, torch.Tensor], list[int]]:
    """The same, by an engine in this process that nobody kills and no vault serves."""
    from engine import SamplingParams, Token

    engine = Engine(load_model(model_dir), EngineConfig(max_tokens=16384))
    tokenizer = load_tokenizer(model_dir, engine.model.config.vocab_size)
    seq = engine.open()

    def run(request: int) -> list[int]:
        events = []
        while engine.busy:
            events += engine.step()
        return [event.id for event in events if isinstance(event, Token)]

    for step in steps:
        run(engine.read(seq, tokenizer.encode(step)))
    state = engine.snapshot(seq), engine.latents(seq, 0, engine.position(seq))
    run(engine.read(seq, encode_parts(tokenizer, QUESTION)))
    return state, run(engine.generate(seq, SamplingParams(max_tokens=32, stop_ids=(2,))))


def assert_same_state(service: Any, control: tuple[Any, torch.Tensor]) -> None:
    """What yet another engine makes of the vault's blocks."""
    head = service.vault.head("default", "a")
    with service.readings.work("default", head, Stop()) as work:
        state = service.driver.call(lambda engine: engine.export(work.seq))
    snapshot, latents = control
    assert (state.position, state.digest) == (snapshot.position, snapshot.digest)
    assert torch.equal(state.latents, latents)
    assert all(torch.equal(state.tensors[name], snapshot.tensors[name]) for name in ("kda", "conv"))


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model's tokens are so small that a whole book fits one page."""
    monkeypatch.setattr("services.inference.service.page_tokens", lambda row_bytes: 256)


@pytest.fixture
def server(make_server: Callable[..., InferenceServer]) -> InferenceServer:
    """Without a cold tier: what Redis loses is lost."""
    return make_server(cold_url="")


@pytest.fixture
def book(client: InferenceClient) -> tuple[list[int], str]:
    """Session "a": three chapters, a bookmark behind each. What it answers, and its digest."""
    client.open_session("a")
    for n, chapter in enumerate(CHAPTERS):
        read(client, "a", chapter, bookmark=f"chapter {n}")
    return ask(client, "a").ids, client.describe_session("a").head.digest


def blocks_of(server: InferenceServer, session: str = "a") -> dict[str, list[bytes]]:
    """Keys of the head's blocks, by kind; of snapshots those of the last rung."""
    vault = server.servicer.loaded.vault  # type: ignore[union-attr]
    manifest = vault.at("default", vault.head("default", session).view)
    refs = [ref for ref in manifest.refs() if ref.kind != "snapshot"] + list(manifest.rungs[-1].parts)
    kinds: dict[str, list[bytes]] = {"page": [], "snapshot": [], "log": []}
    for ref in refs:
        kinds[ref.kind].append(block_key("default", ref.name))
    return kinds


@pytest.mark.parametrize("kind", ["page", "snapshot"])
@pytest.mark.parametrize("harm", ["flip", "cut", "delete"])
def test_a_harmed_block_is_computed_again(
    client: InferenceClient, server: InferenceServer, store: redis.Redis, book: Any, kind: str, harm: str
) -> None:
    """From the bookmark before it and the token log; once. Afterwards the vault is whole."""
    ids, digest = book
    hurt(store, blocks_of(server)[kind][-1], harm)
    forget_all(server)
    said = ask(client, "a")
    assert said.ids == ids
    assert said.last.usage.recomputed
    forget_all(server)
    again = ask(client, "a")
    assert again.ids == ids
    assert not again.last.usage.recomputed
    assert client.describe_session("a").head.digest == digest
    assert books_balance(server)


def test_a_harmed_first_page_means_reading_everything_again(
    client: InferenceClient, server: InferenceServer, store: redis.Redis, book: Any
) -> None:
    """Every bookmark stands on that page, and is whole again afterwards too."""
    hurt(store, blocks_of(server)["page"][0], "flip")
    forget_all(server)
    said = ask(client, "a")
    assert said.ids == book[0] and said.last.usage.recomputed
    client.rewind_session("a", "chapter 0")
    forget_all(server)
    assert not ask(client, "a").last.usage.recomputed


def test_all_blocks_but_the_log_gone(
    client: InferenceClient, server: InferenceServer, store: redis.Redis, book: Any
) -> None:
    blocks = blocks_of(server)
    store.delete(*blocks["page"], *blocks["snapshot"])
    forget_all(server)
    read(client, "a", "One more chapter.")
    client.open_session("b")
    for chapter in [*CHAPTERS, "One more chapter."]:
        read(client, "b", chapter)
    assert ask(client, "a").ids == ask(client, "b").ids


@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_blocks_lost_at_random_are_a_right_answer_or_data_loss(
    client: InferenceClient, server: InferenceServer, store: redis.Redis, book: Any, share: float
) -> None:
    keys = sorted(store.scan_iter("*:blk:*"))
    dice = random.Random(int(share * 100))
    store.delete(*dice.sample(keys, max(1, int(len(keys) * share))))
    forget_all(server)
    try:
        assert ask(client, "a").ids == book[0]
    except errors.DataLoss:
        assert share > 0.02
    assert books_balance(server)


def test_state_and_log_gone_is_data_loss_and_names_the_last_good_bookmark(
    client: InferenceClient, server: InferenceServer, store: redis.Redis, book: Any
) -> None:
    blocks = blocks_of(server)
    store.delete(blocks["log"][-1], *blocks["snapshot"])
    forget_all(server)
    with pytest.raises(errors.DataLoss) as lost:
        ask(client, "a")
    assert lost.value.extra["bookmark"] == "chapter 1"
    client.rewind_session("a", "chapter 1")
    assert not ask(client, "a").last.usage.recomputed


def test_a_harmed_log_alone_hurts_nobody(
    client: InferenceClient, server: InferenceServer, store: redis.Redis, book: Any
) -> None:
    hurt(store, blocks_of(server)["log"][0], "flip")
    forget_all(server)
    assert ask(client, "a").ids == book[0]


def test_a_harmed_manifest_is_data_loss(
    client: InferenceClient, server: InferenceServer, store: redis.Redis, book: Any
) -> None:
    vault = server.servicer.loaded.vault  # type: ignore[union-attr]
    names = {
        view.manifest for view in [vault.head("default", "a").view, *(m.view for m in vault.marks("default", "a"))]
    }
    for name in names:
        hurt(store, manifest_key("default", name), "flip")
    forget_all(server)
    with pytest.raises(errors.DataLoss):
        ask(client, "a")
    client.rewind_session("a", "chapter 1")
    assert ask(client, "a").ids


def test_a_fork_falls_back_to_the_bookmarks_of_its_origin(
    client: InferenceClient, server: InferenceServer, store: redis.Redis, book: Any
) -> None:
    client.fork_session("a", "b")
    hurt(store, blocks_of(server, "b")["snapshot"][0], "delete")
    forget_all(server)
    said = ask(client, "b")
    assert said.ids == book[0] and said.last.usage.recomputed


# --- another model ----------------------------------------------------------------------------------------------------


@pytest.fixture
def other_weights(model_dir: Path, tmp_path: Path) -> Path:
    import json

    folder = save_random_checkpoint(tmp_path / "other", json.loads((model_dir / "config.json").read_text()), seed=9)
    shutil.copy(model_dir / "tokenizer.json", folder)
    return folder


def test_other_weights_read_the_tokens_again(
    client: InferenceClient, book: Any, make_server: Callable[..., InferenceServer], other_weights: Path
) -> None:
    """The state of one model is nothing to another; the tokens are. The answer is the other model's own."""
    other = make_server(model_dir=other_weights)
    with InferenceClient(f"127.0.0.1:{other.port}") as changed:
        said = ask(changed, "a")
        assert said.last.usage.recomputed
        changed.open_session("b")
        for chapter in CHAPTERS:
            read(changed, "b", chapter)
        assert said.ids == ask(changed, "b").ids
        assert not ask(changed, "a").last.usage.recomputed
        assert changed.describe_session("a").fingerprint == changed.describe().fingerprint
    assert ask(client, "a").ids == book[0]  # and back again


def test_another_tokenizer_is_refused(
    client: InferenceClient, book: Any, make_server: Callable[..., InferenceServer], other_weights: Path
) -> None:
    """Its ids would mean other words."""
    path = other_weights / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    with InferenceClient(f"127.0.0.1:{make_server(model_dir=other_weights).port}") as changed:
        with pytest.raises(errors.StateIncompatible) as refused:
            ask(changed, "a")
        assert refused.value.extra["reason"] == "STATE_INCOMPATIBLE"
        with pytest.raises(errors.StateIncompatible):
            read(changed, "a", "x")
        assert changed.describe_session("a").head.position > 0
    assert ask(client, "a").ids == book[0]


def test_cancel_while_recomputing_leaves_nothing_behind(
    client: InferenceClient, server: InferenceServer, store: redis.Redis, book: Any
) -> None:
    blocks = blocks_of(server)
    store.delete(*blocks["page"], *blocks["snapshot"])
    forget_all(server)
    with pytest.raises(errors.DeadlineExceeded):
        list(client.generate("a", QUESTION, timeout=0.02))
    wait_for(lambda: books_balance(server))
    assert ask(client, "a").ids == book[0]


def test_many_questions_to_one_reading_bring_it_back_once(client: InferenceClient, server: InferenceServer) -> None:
    """Forks that stand at one place; nothing of it is live. The first question restores it, the others find it."""
    client.open_session("a")
    read(client, "a", BOOK * 4)
    alone = ask(client, "a").ids
    names = [f"fork{n}" for n in range(4)]
    for name in names:
        client.fork_session("a", name)
    forget_all(server)
    with ThreadPoolExecutor(len(names)) as pool:
        said = list(pool.map(lambda name: ask(client, name), names))
    assert [answer.ids for answer in said] == [alone] * len(names)
    assert sum(answer.last.usage.restore_ms > 0 for answer in said) == 1
    assert books_balance(server)
