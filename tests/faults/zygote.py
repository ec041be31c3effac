"""Forks engines. Importing torch takes seconds, a fork milliseconds: `python -m tests.faults.zygote` imports once.

On standard input a line of JSON a life: the environment it runs under. On standard output first {"forked": pid}, later
from the life itself {"ready": pid, "port": n}. No thread may run in here before a fork, and the lives die with it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
from typing import Any, NoReturn

import torch

from services import log
from services.inference.server import build_server
from services.inference.settings import InferenceSettings

PR_SET_PDEATHSIG = 1


def main() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel collects the dead
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it closes our standard input
    gc.freeze()  # or every collection in a child copies our pages
    assert len(os.listdir("/proc/self/task")) == 1, "a thread runs in the zygote"
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            live(json.loads(line))
        say(1, forked=pid)


def say(channel: int, **facts: Any) -> None:
    os.write(channel, json.dumps(facts).encode() + b"\n")  # one write: lines of several lives do not mix


def live(environment: dict[str, str]) -> NoReturn:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    channel = os.dup(1)
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.update(environment)
        log.configure("inference")
        server, port = build_server(InferenceSettings.from_env())
        signal.signal(signal.SIGTERM, lambda *_: server.leave())
        server.start()
        say(channel, ready=os.getpid(), port=port)
        server.wait()
        server.stop()
    except Exception as error:
        say(channel, failed=os.getpid(), why=f"{type(error).__name__}: {error}")
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
