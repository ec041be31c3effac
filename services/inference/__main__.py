"""`python -m services.inference`: serves the model in SHIORI_MODEL_DIR until SIGTERM."""

from __future__ import annotations

import os

# Torch's threads wait for each other thousands of times a second. Spinning for ever ruins a busy machine, sleeping at
# once costs a third of the speed of a quiet one; a few microseconds of spinning are near the best of both. Read when
# torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

import signal
import sys

from engine import CheckpointError, ConfigError, DeviceError, DoesNotFit
from services import log
from services.inference.server import build_server
from services.inference.settings import InferenceSettings


def main() -> int:
    log.configure("inference")
    server, _ = build_server(InferenceSettings.from_env())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.leave())
    try:
        server.start()
    except (CheckpointError, ConfigError, DeviceError, DoesNotFit) as error:
        log.get_logger(__name__).error("cannot_start", why=str(error))
        server.stop()
        return 1
    server.wait()
    server.stop()
    return 1 if server.failed else 0


if __name__ == "__main__":
    sys.exit(main())
