"""Starts the processes, keeps them up, and leaves none behind."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from types import FrameType
from typing import IO

from services.local import guard, ports
from services.local.child import Child, Spec
from services.local.system import Plan

READY_SECONDS = 120.0
GIVE_UP_AFTER = 4  # crashes in a row of one process before the whole has ever been ready


class CannotStart(Exception):
    """Said to the person as it is; nothing is left running."""


class Stopped(Exception):
    """A signal asked for the end."""


def say(text: str) -> None:
    print(f"[shiori] {text}", flush=True)


class Supervisor:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.children: list[Child] = []
        self.was_ready = False
        self.stopping = False
        self._lock: IO[str] | None = None
        self._guard: tuple[subprocess.Popen[bytes], int] | None = None

    # ---- life ----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Blocks until a signal. Returns the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        try:
            self._lock_folder()
            self._check_port()
            self._start_all()
            self._watch()
        except CannotStart as error:
            say(f"CANNOT START: {error}")
            return 1
        except Stopped:
            pass
        finally:
            self._stop_all()
        return 0

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if not self.stopping:
            self.stopping = True
            raise Stopped
        for child in self.children:  # asked twice: no more patience
            child.signal(signal.SIGKILL)

    def _start_all(self) -> None:
        started = time.monotonic()
        self._guard = guard.start(self.run_file)
        if self.plan.store is not None:
            self._await(self._add(self.plan.store))
        self._prepare()
        for spec in self.plan.services:
            self._add(spec)
        self._await_ready()
        self.was_ready = True
        say(f"ready in {time.monotonic() - started:.1f} s: {self.plan.url}")
        say(f"Ctrl-C stops everything; logs are in {self.log_dir}")

    def _watch(self) -> None:
        ticks = 0
        while True:
            self._revive()
            time.sleep(0.1)
            ticks += 1
            if ticks % 100 == 0:
                for child in self.children:
                    child.rotate()

    def _stop_all(self) -> None:
        """The store last, so that everything else can still save."""
        self.stopping = True
        if self.children:
            say("stopping")
        self._stop([child for child in reversed(self.children) if child.spec is not self.plan.store])
        self._stop([child for child in self.children if child.spec is self.plan.store])
        self._end_guard()
        if self._lock is not None:
            self.run_file.unlink(missing_ok=True)
            self._lock.close()

    def _stop(self, group: list[Child]) -> None:
        for child in group:
            child.interrupt()
        started = time.monotonic()
        for child in group:
            if not child.wait(started + child.spec.stop_seconds - time.monotonic()):
                say(f"{child.spec.name} did not stop within {child.spec.stop_seconds:.0f} s: killed")
            child.signal(signal.SIGKILL)  # and whatever it had left in its group
            child.wait(5)

    def _end_guard(self) -> None:
        if self._guard is not None:
            process, write_end = self._guard
            process.kill()
            process.wait()
            os.close(write_end)

    # ---- children ------------------------------------------------------------------------------------------------

    def _add(self, spec: Spec) -> Child:
        child = Child(spec, self.log_dir / f"{spec.name}.log")
        self.children.append(child)
        child.rotate()
        child.start()
        self._write_run_file()
        return child

    def _revive(self) -> None:
        """Starts again what has ended, after a wait that grows."""
        for child in self.children:
            status = child.exited()
            if status is None:
                continue
            if child.restart_at is None:
                self._crashed(child, status)
            elif time.monotonic() >= child.restart_at:
                child.start()
                self._write_run_file()
                say(f"{child.spec.name} started again (pid {child.pid})")

    def _crashed(self, child: Child, status: int) -> None:
        child.signal(signal.SIGKILL)  # what it left in its group
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        if not self.was_ready and child.crashes >= GIVE_UP_AFTER:
            raise CannotStart(
                f"{child.spec.name} {how}, again and again. The end of {child.log}:\n" + "\n".join(child.tail())
            )
        wait = child.schedule_restart()
        say(f"{child.spec.name} {how}; starting it again" + (f" in {wait:.1f} s" if wait else ""))
        if status > 0:
            for line in child.tail(2):
                say(f"  {child.spec.name} | {line}")

    def _await(self, child: Child) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not child.spec.ready():
            if child.exited() is not None or time.monotonic() > deadline:
                raise CannotStart(
                    f"{child.spec.name} does not start. The end of {child.log}:\n" + "\n".join(child.tail())
                )
            time.sleep(0.05)

    def _prepare(self) -> None:
        done = subprocess.run(
            self.plan.prepare,
            env=dict(self.plan.env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise CannotStart("the database could not be brought up to date:\n" + (done.stderr or done.stdout)[-2000:])

    def _await_ready(self) -> None:
        """All answer, and the gateway says that it sees them all."""
        deadline = time.monotonic() + READY_SECONDS
        told = time.monotonic() + 15
        while reasons := self._not_ready():
            self._revive()
            if time.monotonic() > deadline:
                raise CannotStart(f"not ready after {READY_SECONDS:.0f} s: {'; '.join(reasons)}. Logs: {self.log_dir}")
            if time.monotonic() > told:
                told += 15
                say(f"still waiting for: {'; '.join(reasons)}")
            time.sleep(0.3)

    def _not_ready(self) -> list[str]:
        silent = [child.spec.name for child in self.children if not child.spec.ready()]
        return silent or self.plan.not_ready()

    # ---- folder, port, record ------------------------------------------------------------------------------------

    @property
    def log_dir(self) -> Path:
        return self.plan.data_dir / "log"

    @property
    def run_file(self) -> Path:
        return self.plan.data_dir / "run.json"

    def _lock_folder(self) -> None:
        self.log_dir.mkdir(parents=True, exist_ok=True)
        lock = (self.plan.data_dir / "run.lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise CannotStart(f"Shiori already runs on {self.plan.data_dir}{_where(self.run_file)}") from None
        self._lock = lock

    def _check_port(self) -> None:
        if not ports.is_free(self.plan.port, self.plan.host):
            raise CannotStart(
                f"port {self.plan.port} on {self.plan.host} is taken by another program. "
                "Stop that one, or choose another port: SHIORI_PORT=8001 make run"
            )

    def _write_run_file(self) -> None:
        """Who runs where: the demo and the tests find the engine's process here."""
        processes = {child.spec.name: {"pid": child.pid, "port": child.spec.port} for child in self.children}
        record = {
            "pid": os.getpid(),
            "url": self.plan.url,
            "data_dir": str(self.plan.data_dir),
            "metrics": self.plan.metrics,
            "processes": processes,
        }
        temporary = self.run_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(record, indent=2))
        temporary.replace(self.run_file)


def _where(run_file: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        record = json.loads(run_file.read_text())
        return f" (pid {record['pid']}, {record['url']})"
    return ""
