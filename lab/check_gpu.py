"""On the GPU machine: the fast mixing operations against their definitions, forward and backward."""

import torch

from lab.mixers import attend, attend_by_definition, remember, remember_by_definition
from lab.net import Row


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.float().cpu() - b.float().cpu()).norm() / b.float().norm()).item()


def compare(fast, slow, shapes: list[tuple], ends: list[int]) -> list[float]:
    torch.manual_seed(0)
    made = [torch.randn(s) for s in shapes]
    results = []
    for fn, device, dtype in ((slow, "cpu", torch.float32), (fast, "cuda", torch.bfloat16)):
        row = Row(torch.tensor(ends, dtype=torch.int32), device)
        args = [x.to(device, torch.float32 if x.dim() < 3 else dtype).detach().clone().requires_grad_() for x in made]
        out = fn(*args, row)
        out.float().square().sum().backward()
        results.append([out, *(x.grad for x in args)])
    return [round(relative(a, b), 4) for b, a in zip(*results, strict=True)]


if __name__ == "__main__":
    n, h, d = 300, 4, 128
    print(
        "kda o q k v decay beta A dt:",
        compare(remember, remember_by_definition, [(n, h, d)] * 4 + [(n, h), (h,), (h * d,)], [0, 70, 71, n]),
    )
    print("mla o q k v:", compare(attend, attend_by_definition, [(n, h, 96)] * 3, [0, 70, 71, n]))
