"""How far the plan is: by the clock, or by steps where a run must be the same each time."""

import time

import torch
import torch.distributed as dist

BORN = time.time()


class Clock:
    """The plan goes from `start` to `stop` while `seconds` pass since the program began; the same on every process."""

    def __init__(self, seconds: float, start: float, stop: float, device: torch.device):
        self.seconds, self.start, self.stop, self.device = seconds, start, stop, device
        self.elapsed, self.offset = 0.0, 0.0

    def look(self) -> None:
        now = torch.tensor([time.time() - BORN], device=self.device)
        if dist.is_initialized():
            dist.all_reduce(now, op=dist.ReduceOp.MAX)
        self.elapsed = float(now)

    def begin(self) -> None:
        """The plan's part starts when the first steps are through, not while kernels are compiled."""
        self.look()
        self.offset = self.elapsed

    def tick(self, step: int) -> None:
        if step % 10 == 0:
            self.look()

    def progress(self) -> float:
        done = (self.elapsed - self.offset) / max(1.0, self.seconds - self.offset)
        return self.start + (self.stop - self.start) * min(1.0, done)

    def over(self) -> bool:
        return self.elapsed >= self.seconds


class Counted(Clock):
    """The same by steps: `steps` of them lead from `start` to `stop`."""

    def __init__(self, steps: int, start: float, stop: float):
        super().__init__(float(steps), start, stop, torch.device("cpu"))

    def look(self) -> None:
        pass

    def begin(self) -> None:
        pass

    def tick(self, step: int) -> None:
        self.elapsed = float(step)

    def progress(self) -> float:
        return self.start + (self.stop - self.start) * min(1.0, self.elapsed / self.seconds)
