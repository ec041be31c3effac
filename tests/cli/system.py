"""An engine with its vault, a real Redis and a cold tier, and the hand that does damage to them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import torch
from typer.testing import CliRunner, Result

from services.cli.main import app
from services.inference.client import InferenceClient
from services.inference.server import InferenceServer, build_server
from services.inference.settings import InferenceSettings
from tests.conftest import free_port, plain_logs
from tests.inference.conftest import BOOK
from tests.inference.helpers import ask, read

torch.set_num_threads(1)
START = "The clocks were striking thirteen. " * 60


class System:
    """An engine with its vault in a folder, and what an operator does to both."""

    def __init__(self, model: Path, redis_url: str, folder: Path) -> None:
        self.folder, self.redis = folder, redis.Redis.from_url(redis_url)
        self.settings = InferenceSettings(
            address="127.0.0.1:0",
            model_dir=model,
            redis_url=redis_url,
            threads=1,
            tokens=32768,
            sweep_s=0,
            key_file=folder / "vault.key",
            cold_url=(folder / "cold").as_uri(),
            metrics_address=f"127.0.0.1:{free_port()}",
        )
        self.server: InferenceServer | None = None

    def start(self) -> "System":
        self.server, port = build_server(self.settings)
        self.server.start()
        self.address = f"127.0.0.1:{port}"
        self.client = InferenceClient(self.address)
        return self

    def stop(self) -> None:
        if self.server is not None:
            self.client.close()
            self.server.stop(grace_s=0)
            self.server = None

    def restart(self) -> None:
        """Nothing is left in the engine's memory."""
        self.stop()
        self.start()

    def shiori(self, *words: str) -> Result:
        return vault(self.address, *words)

    def read(self, session: str, words: str, **options: str) -> None:
        self.client.open_session(session)
        read(self.client, session, words, **options)

    def answer(self, session: str = "book") -> tuple[str, int, bool]:
        """Text, tokens resumed, whether any was computed again."""
        said = ask(self.client, session)
        return said.text, said.last.usage.resumed_tokens, said.last.usage.recomputed

    # ---- the hand that does damage -----------------------------------------------------------------------------------

    def blocks(self) -> list[bytes]:
        return sorted(self.redis.keys("shiori:{default}:blk:*"))

    def blocks_below(self) -> set[str]:
        return {path.name for path in (self.folder / "cold" / "default" / "blk").iterdir()}

    def blocks_in_both(self) -> set[str]:
        return {key.decode().rpartition(":")[2] for key in self.blocks()} & self.blocks_below()

    def cold_block(self, name: str) -> Path:
        return self.folder / "cold" / "default" / "blk" / name

    def wrapped_below(self) -> str:
        """The tenant's key as it lies in the cold tier; it names the master key."""
        return (self.folder / "cold" / "default" / "key").read_bytes().hex()

    def flip_in_redis(self, key: bytes) -> None:
        value = bytearray(self.redis.get(key) or b"")
        value[len(value) // 2] ^= 1
        self.redis.set(key, bytes(value))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def vault(address: str, *words: str) -> Result:
    """`shiori vault …`"""
    return CliRunner().invoke(app, ["vault", *words], env={"SHIORI_ENGINE_ADDRESS": address})


Start = Callable[..., System]


@pytest.fixture
def start(model_dir: Path, redis_url: str, tmp_path: Path) -> Iterator[Start]:
    plain_logs()
    running: list[System] = []

    def begin(model: Path = model_dir) -> System:
        running.append(System(model, redis_url, tmp_path).start())
        return running[-1]

    yield begin
    for system in running:
        system.stop()


@pytest.fixture
def system(start: Start) -> System:
    """Has read a book in two segments, with a bookmark between them."""
    system = start()
    system.read("book", START, bookmark="start")
    system.read("book", BOOK, bookmark="end")
    return system


@pytest.fixture
def below(system: System) -> System:
    """All of it is in the cold tier, and in Redis again."""
    assert system.shiori("tier-down").exit_code == 0
    system.restart()
    assert system.answer()[1] > 0
    assert system.blocks_in_both() < system.blocks_below()  # the tokens are not asked for
    return system
