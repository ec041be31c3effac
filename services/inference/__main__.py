"""`python -m services.inference`: serves the model in SHIORI_MODEL_DIR until SIGTERM."""

from __future__ import annotations

import os

# Two OpenMP threads that spin beside other load make every small operation take 10 ms. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import signal
import sys

from services import log
from services.inference.server import build_server
from services.inference.settings import InferenceSettings


def main() -> int:
    log.configure("inference")
    server, _ = build_server(InferenceSettings.from_env())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.leave())
    server.start()
    server.wait()
    server.stop()
    return 1 if server.failed else 0


if __name__ == "__main__":
    sys.exit(main())
