"""A TCP proxy between engine and Redis that is slow, falls silent, or cuts the line after so many bytes."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from dataclasses import dataclass, replace

CHUNK = 65536


@dataclass(frozen=True)
class Weather:
    """What happens to each direction of each connection."""

    delay_s: float = 0.0  # before every piece
    silent: bool = False  # pieces are taken and never delivered; the connection stays open
    cut_after: int = 0  # bytes, then both sides are reset; 0: never


class Proxy:
    """`url_port` is where to connect; `weather` may be changed at any time and holds for what comes after."""

    def __init__(self, target_port: int) -> None:
        self.weather = Weather()
        self._target = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def change(self, dice: random.Random, kind: str) -> None:
        """`slow`, `half_open` or `cut`, with random figures; `fair`."""
        self.weather = {
            "fair": Weather(),
            "slow": Weather(delay_s=dice.uniform(0.001, 0.03)),
            "half_open": Weather(silent=True),
            "cut": Weather(cut_after=int(2 ** dice.uniform(3, 18))),
        }[kind]

    def drop_all(self) -> None:
        """Resets what is open."""
        with self._lock:
            for one in list(self._open):
                _reset(one)
            self._open.clear()

    def stop(self) -> None:
        self._listener.close()
        self.drop_all()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self._target), timeout=5)
        except OSError:
            return _reset(near)
        for one in (near, far):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.settimeout(None)
        with self._lock:
            self._open |= {near, far}
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()
        return None

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        left: int | None = None
        with contextlib.suppress(OSError):  # the other direction ended first
            while piece := source.recv(CHUNK):
                weather = replace(self.weather)
                time.sleep(weather.delay_s)
                if weather.silent:
                    continue
                if weather.cut_after:
                    left = weather.cut_after if left is None else left
                    sink.sendall(piece[:left])
                    left -= len(piece)
                    if left <= 0:
                        break
                else:
                    sink.sendall(piece)
        self._end(source, sink)

    def _end(self, *ends: socket.socket) -> None:
        with self._lock:
            for one in ends:
                _reset(one)
                self._open.discard(one)


def _reset(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
