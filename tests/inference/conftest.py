"""A real Redis, a tiny random model with a real tokenizer, servers in this process and in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from engine.testing import TINY, save_random_checkpoint
from services.inference.client import InferenceClient
from services.inference.server import InferenceServer, build_server
from services.inference.settings import InferenceSettings
from tests.conftest import free_port

torch.set_num_threads(1)

SPECIALS = [
    *("<|pad|>", "<|bos|>", "<|end|>", "<|doc|>", "<|file|>", "<|question|>", "<|answer|>", "<|quote|>"),
    *("<|/quote|>", "<|none|>", "<|summary|>", "<|find|>", *(f"<|reserved_{n}|>" for n in range(4))),
]
BOOK = (
    "It was a bright cold day in April, and the clocks were striking thirteen. Der Käfer aß 漢字 für 1984 Yen. 🦊 " * 40
)


@pytest.fixture
def store(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of every layer kind, and a byte-level BPE with the sixteen specials of decision 1."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [BOOK], trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIALS, initial_alphabet=alphabet)
    )
    plain = json.loads(tokenizer.to_str()) | {"added_tokens": []}
    fields = TINY | {"vocab_size": tokenizer.get_vocab_size()}
    folder = save_random_checkpoint(tmp_path_factory.mktemp("model"), fields)
    (folder / "tokenizer.json").write_text(json.dumps(plain))
    return folder


@pytest.fixture
def make_server(model_dir: Path, redis_url: str, tmp_path: Path) -> Iterator[Callable[..., InferenceServer]]:
    """Servers in this process; all of one test share the vault."""
    running: list[InferenceServer] = []

    def make(**changes: object) -> InferenceServer:
        settings = {"address": "127.0.0.1:0", "model_dir": model_dir, "redis_url": redis_url, "threads": 1}
        settings |= {"key_file": tmp_path / "vault.key", "cold_url": f"file://{tmp_path}/cold", "ring_mb": 8}
        server, _ = build_server(InferenceSettings(**(settings | {"tokens": 32768, "sweep_s": 0} | changes)))
        running.append(server.start())
        return server

    yield make
    for server in running:
        server.stop(grace_s=0)


@pytest.fixture
def server(make_server: Callable[..., InferenceServer]) -> InferenceServer:
    return make_server()


@pytest.fixture
def client(server: InferenceServer) -> Iterator[InferenceClient]:
    with InferenceClient(f"127.0.0.1:{server.port}") as client:
        yield client


class ServerProcess:
    """`python -m services.inference`, which can be killed."""

    def __init__(self, model_dir: Path, redis_url: str, log: Path) -> None:
        self.address, self.log = f"127.0.0.1:{free_port()}", log
        names = {"ENGINE_ADDRESS": self.address, "MODEL_DIR": str(model_dir), "REDIS_URL": redis_url}
        names |= {"DATA_DIR": str(log.parent), "METRICS_ADDRESS": ""}
        names |= {"ENGINE_TOKENS": "32768", "ENGINE_THREADS": "1", "LOG_FORMAT": "json"}
        env = os.environ | {f"SHIORI_{name}": value for name, value in names.items()}
        with log.open("ab") as out:
            command = [sys.executable, "-m", "services.inference"]
            self.process = subprocess.Popen(command, env=env, stdout=out, stderr=out)

    def client(self) -> InferenceClient:
        """Ready when the model is loaded: `describe` is retried while the engine is away."""
        client = InferenceClient(self.address, timeout=60)
        wait_for(client.describe, Exception)
        return client

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@pytest.fixture
def start_process(model_dir: Path, redis_url: str, tmp_path: Path) -> Iterator[Callable[[], ServerProcess]]:
    started: list[ServerProcess] = []

    def start() -> ServerProcess:
        started.append(ServerProcess(model_dir, redis_url, tmp_path / "server.log"))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def wait_for(question: Callable[[], object], unless: type[Exception] = AssertionError, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if question():
                return
        except unless:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
