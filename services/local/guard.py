"""The last one out. A process that holds one end of a pipe and waits for the supervisor's death, however it comes.

The kernel kills the supervisor's own children then (PR_SET_PDEATHSIG); what those had started themselves (a worker's
pool, a parser) lives in their process groups, which this ends too.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def start(run_file: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Returns the guard and the pipe's write end, which only the supervisor holds and never writes to."""
    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-S", __file__, str(run_file), str(read_end)],
        pass_fds=(read_end,),
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_end)
    return process, write_end


def groups(run_file: Path) -> list[int]:
    with contextlib.suppress(OSError, ValueError):
        return [process["pid"] for process in json.loads(run_file.read_text())["processes"].values()]
    return []


def end(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def main() -> None:
    run_file, read_end = Path(sys.argv[1]), int(sys.argv[2])
    os.read(read_end, 1)  # returns when the supervisor is gone
    left = groups(run_file)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for group in left:
            end(group, number)
        time.sleep(0.5)
    run_file.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
