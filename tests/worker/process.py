"""A real worker process over a twin of the engine: python -m tests.worker.process ENGINE_FOLDER DELAY QUEUES."""

import sys
from pathlib import Path

from services import log
from services.jobs import Queues
from services.settings import Settings
from services.worker.app import run
from tests.fakes import FileTwin

if __name__ == "__main__":
    folder, delay, queues = sys.argv[1:]
    settings = Settings()
    log.configure("worker", settings)
    wanted = [Queues(name) for name in queues.split(",")]
    run(settings, wanted, 1, lambda tenant: FileTwin(Path(folder), tenant, float(delay)))
