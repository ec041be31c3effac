"""The three tasks, made on the device without a loop over time: tokens and targets [B,T] int64, NOT where nothing is
asked.

Symbols are 0 to symbols - 1; the names behind them are a task's own.
"""

from typing import Any

import torch
from torch import Generator, Tensor

NOT = -100


def vocabulary(task: dict[str, Any]) -> int:
    """Symbols, the separator or "pop", and the stacks' names."""
    return task["symbols"] + 1 + task["stacks"]


def make(name: str, task: dict[str, Any], batch: int, length: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """A batch on the generator's device. ValueError: a name that is no task, a length that does not fit."""
    if name not in TASKS or length % 2:
        raise ValueError(f"{name} of {length} tokens: the tasks are {', '.join(TASKS)}, lengths are even")
    return TASKS[name](task, batch, length, generator)


def palindrome(task: dict[str, Any], batch: int, length: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """x1 … xn | xn … x2 with n = T/2: from the separator on, the next token of the reversed list is asked."""
    row = draw(task["symbols"], (batch, length // 2), generator)
    back = row.flip(1)
    tokens = torch.cat([row, torch.full_like(row[:, :1], task["symbols"]), back[:, :-1]], 1)
    return tokens, torch.cat([torch.full_like(row, NOT), back], 1)


def mqar(task: dict[str, Any], batch: int, length: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """k1 v1 … kp vp | q q q …: every q is one of the keys, which are all different, and asks for its value."""
    pairs, symbols = length // task["pairs"], task["symbols"]
    if not 0 < pairs <= symbols or 2 * pairs >= length:
        raise ValueError(f"{pairs} pairs of {symbols} keys do not fit in {length} tokens")
    order = torch.rand(batch, symbols, generator=generator, device=generator.device)
    keys = order.argsort(1)[:, :pairs]
    values = draw(symbols, (batch, pairs), generator)
    asked = draw(pairs, (batch, length - 2 * pairs - 1), generator)
    told = torch.stack([keys, values], 2).flatten(1)
    tokens = torch.cat([told, torch.full_like(keys[:, :1], symbols), keys.gather(1, asked)], 1)
    return tokens, torch.cat([torch.full_like(tokens[:, : 2 * pairs + 1], NOT), values.gather(1, asked)], 1)


def stack(task: dict[str, Any], batch: int, length: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """T/2 operations of two tokens: "name element" pushes, "pop name" asks for the element on top of that stack.

    Every operation picks a stack at random and pushes or pops with equal chance; on an empty stack it pushes. So a
    stack's depth is the absolute value of a walk with steps of ±1, and no loop over time is needed.
    """
    symbols, stacks, shape = task["symbols"], task["stacks"], (batch, length // 2)
    name, element = draw(stacks, shape, generator), draw(symbols, shape, generator)
    depth, before = depths(name, 2 * draw(2, shape, generator) - 1, stacks)
    push = depth > before
    popped = element.gather(1, previous(name * (length + 1) + torch.maximum(depth, before)))
    pop = torch.full_like(name, symbols)
    names = symbols + 1 + name
    tokens = torch.stack([torch.where(push, names, pop), torch.where(push, element, names)], 2)
    targets = torch.stack([torch.full_like(name, NOT), torch.where(push, NOT, popped)], 2)
    return tokens.flatten(1), targets.flatten(1)


def depths(name: Tensor, walk: Tensor, stacks: int) -> tuple[Tensor, Tensor]:
    """Depth of each operation's stack after it and before it, [B,operations]; ``walk``: its steps of ±1."""
    steps = torch.nn.functional.one_hot(name, stacks) * walk[..., None]
    after = steps.cumsum(1).gather(2, name[..., None])[..., 0]
    return after.abs(), (after - walk).abs()


def previous(group: Tensor) -> Tensor:
    """For each entry the place of the last one before it in the same group [B,operations]; any, if there is none.

    A pop and the push that it undoes reach the same level of the same stack, and nothing else does in between.
    """
    order = group.argsort(dim=1, stable=True)
    return torch.empty_like(order).scatter_(1, order, order.roll(1, 1))


def draw(below: int, shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.randint(below, shape, generator=generator, device=generator.device)


TASKS = {"palindrome": palindrome, "mqar": mqar, "stack": stack}
