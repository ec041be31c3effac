"""The worker process: Celery's prefork pool, tools made in each child, a sweep in the parent."""

import multiprocessing
import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from celery import Celery, signals

from services import jobs, log
from services.jobs import Queues
from services.settings import Settings
from services.worker.run import Tools
from services.worker.sweep import Sweep
from services.worker.tasks import make_tools, register


def run(
    settings: Settings, queues: Sequence[Queues], concurrency: int, model_of: Callable[[str], Any] | None = None
) -> None:
    """Until SIGTERM. `model_of(tenant)` gives a client of the engine; tests hand in a twin."""
    name = f"{'+'.join(queues)}-{socket.gethostname()}-{os.getpid()}"
    draining = multiprocessing.get_context("fork").Event()  # inherited by the pool's children
    tools = PerProcess(lambda: make_tools(settings, model_of, draining))
    sweep = Sweep(tools(), queues, name)
    app = jobs.celery_app(settings)
    register(app, tools)
    _wire(tools, sweep, draining.set)
    try:
        app.Worker(
            hostname=name,
            queues=[queue.value for queue in queues],
            concurrency=concurrency,
            pool="prefork",
            quiet=True,
            loglevel=settings.log_level,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        ).start()
    finally:
        sweep.stop()


class PerProcess:
    """Connections belong to the process that opened them: a child makes its own."""

    def __init__(self, make: Callable[[], Tools]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._made: dict[int, Tools] = {}

    def __call__(self) -> Tools:
        with self._lock:
            if os.getpid() not in self._made:
                self._made[os.getpid()] = self._make()
            return self._made[os.getpid()]

    def after_fork(self) -> None:
        self._lock = threading.Lock()


def _wire(tools: PerProcess, sweep: Sweep, drain: Callable[[], None]) -> None:
    @signals.setup_logging.connect(weak=False)
    def keep_our_logging(**_: Any) -> None:
        """Celery configures nothing."""

    @signals.worker_process_init.connect(weak=False)
    def in_child(**_: Any) -> None:
        tools.after_fork()
        tools()

    @signals.worker_shutting_down.connect(weak=False)
    def leaving(**_: Any) -> None:
        """A reading may take hours: it is handed on, not waited for."""
        drain()

    @signals.worker_ready.connect(weak=False)
    def ready(**_: Any) -> None:
        log.get_logger(__name__).info("worker_ready", queues=[queue.value for queue in sweep.queues])
        sweep.start()


def check(app: Celery) -> None:
    """Every kind of job has a task, every task a queue."""
    missing = [kind.value for kind in jobs.Kinds if jobs.task_name(kind) not in app.tasks]
    assert not missing and set(jobs.QUEUE_OF) == set(jobs.Kinds), f"no task for {missing}"
