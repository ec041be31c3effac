"""The product for a measurement: the engine's own process, its vault on a Redis of its own, spoken to over gRPC."""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from services.inference.client import InferenceClient
from services.local import ports, system
from services.local.child import Child, Spec
from services.settings import Settings

START_SECONDS = 180.0
PRIVATE = ("SHIORI_VAULT_KEY", "SHIORI_VAULT_KEY_FILE", "SHIORI_COLD_URL")  # somebody's own: not for a measurement


@contextmanager
def product() -> Iterator[InferenceClient]:
    """A client of an engine of its own; everything ends with the block.

    Model and settings are the environment's (SHIORI_MODEL_DIR, SHIORI_ENGINE_THREADS, …); Redis, cold tier and
    key are made for this block in a folder that goes with it. Raises RuntimeError with the log's end when it does not
    start.
    """
    with tempfile.TemporaryDirectory(prefix="shiori-eval-") as folder:
        specs, address = plan(Path(folder))
        children = [Child(spec, Path(folder) / f"{spec.name}.log") for spec in specs]
        try:
            for child in children:
                child.start()
                await_ready(child)
            with InferenceClient(address, "eval") as client:
                await_model(client, children[-1])
                yield client
        finally:
            for child in reversed(children):
                child.interrupt()
                child.wait(child.spec.stop_seconds)
                child.signal(9)


def plan(folder: Path) -> tuple[list[Spec], str]:
    """What to start, in order, and the engine's address."""
    redis_port, address = ports.any_free(), f"127.0.0.1:{ports.any_free()}"
    settings = Settings(data_dir=folder, engine_address=address)
    decided = system.decide(settings, environment(redis_port))
    return [system.redis_spec(replace(decided, redis_port=redis_port)), system.inference_spec(decided)], address


def environment(redis_port: int) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in PRIVATE}
    own = {"SHIORI_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0", "SHIORI_METRICS_ADDRESS": ""}
    return kept | own | {"SHIORI_LOG_LEVEL": "WARNING"}


def await_ready(child: Child) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not child.spec.ready():
        if child.exited() is not None or time.monotonic() > deadline:
            raise RuntimeError("\n".join([f"{child.spec.name} does not start:", *child.tail()]))
        time.sleep(0.05)


def await_model(client: InferenceClient, engine: Child) -> None:
    """The port opens before the model is loaded; until then calls are refused, and the client asks again."""
    try:
        client.describe()
    except Exception as error:
        raise RuntimeError("\n".join(["the engine does not answer:", *engine.tail()])) from error
