"""A parser in a process of its own, with a bound on memory and time: one bad file harms nobody else.

`parse_in_child` is the parent's side; `python -m services.ingest.child REQUEST REPLY` is the child's.
"""

import contextlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.ingest import wire
from services.ingest.types import IngestError

ROOT = Path(__file__).resolve().parents[2]
REPLY_BYTES = 2 << 30
POLL_SECONDS = 0.02


def parse_in_child(
    fn: Callable[..., Any],
    *args: Any,
    seconds: float = 300,
    memory_mb: int = 2048,
    cancelled: Callable[[], bool] | None = None,
) -> Any:
    """`fn(*args)`, computed in a child. `fn` is a module's function; arguments and result are those wire.py knows."""
    with tempfile.TemporaryDirectory(prefix="shiori-ingest-") as folder:
        request, reply = Path(folder, "request.json"), Path(folder, "reply.json")
        job = {"fn": [fn.__module__, fn.__qualname__], "args": [wire.encode(a) for a in absolute(args)]}
        request.write_text(json.dumps({**job, "seconds": seconds, "memory_mb": memory_mb}), "utf-8")
        code = run([sys.executable, "-m", __name__, str(request), str(reply)], folder, seconds, cancelled)
        return result_of(reply, code, seconds, memory_mb)


def absolute(args: tuple[Any, ...]) -> list[Any]:
    """The child works in a folder of its own."""
    return [a.absolute() if isinstance(a, Path) else a for a in args]


def run(command: list[str], folder: str, seconds: float, cancelled: Callable[[], bool] | None) -> int | None:
    """The child's exit status; None when its time was up."""
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    environment = {"PYTHONPATH": paths, "PATH": os.defpath, "LC_ALL": "C.UTF-8", "TMPDIR": folder}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        return wait(process, time.monotonic() + seconds, cancelled)
    finally:
        kill(process)


def wait(process: subprocess.Popen[bytes], deadline: float, cancelled: Callable[[], bool] | None) -> int | None:
    while process.poll() is None:
        if time.monotonic() > deadline:
            return None
        if cancelled and cancelled():
            raise IngestError("cancelled", "Reading the file was cancelled. Upload it again when you want it.")
        time.sleep(POLL_SECONDS)
    return process.returncode


def kill(process: subprocess.Popen[bytes]) -> None:
    """The child and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def result_of(reply: Path, code: int | None, seconds: float, memory_mb: int) -> Any:
    if code is None or code in (-signal.SIGXCPU, -signal.SIGKILL):
        raise IngestError("timeout", f"Reading the file took more than {seconds:g} s. Split it, or save it plainer.")
    try:
        answer = json.loads(reply.read_text("utf-8"))
    except (OSError, ValueError):
        answer = {"error": ["parser_crashed", f"The file made its parser crash (status {code}). {RETRY}"]}
    if "error" in answer:
        name, message = answer["error"]
        raise IngestError(name, message.replace("MEMORY", f"{memory_mb} MiB"))
    return wire.decode(answer["result"])


RETRY = "It is probably damaged: export it again, or upload it as plain text."


def main(request: str, reply: str) -> None:
    job = json.loads(Path(request).read_text("utf-8"))
    confine(job["seconds"], job["memory_mb"])
    try:
        answer = {"result": wire.encode(call(job["fn"], [wire.decode(a) for a in job["args"]]))}
        Path(reply).write_text(json.dumps(answer), "utf-8")
    except IngestError as error:
        write_error(reply, error.code, error.message)
    except MemoryError:
        write_error(reply, "out_of_memory", "Reading the file took more than MEMORY of memory. Split it into parts.")
    except Exception as error:
        write_error(reply, "parser_failed", f"The file could not be read ({type(error).__name__}: {error}). {RETRY}")


def call(name: list[str], args: list[Any]) -> Any:
    return getattr(importlib.import_module(name[0]), name[1])(*args)


def write_error(reply: str, code: str, message: str) -> None:
    Path(reply).write_text(json.dumps({"error": [code, message[:2000]]}), "utf-8")


def confine(seconds: float, memory_mb: int) -> None:
    """Bounds that hold even if a parser is taken over by what it reads."""
    for what, most in (
        (resource.RLIMIT_AS, memory_mb << 20),
        (resource.RLIMIT_CPU, int(seconds) + 1),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, REPLY_BYTES),
        (resource.RLIMIT_NOFILE, 256),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


if __name__ == "__main__":
    main(*sys.argv[1:])
