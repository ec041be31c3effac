"""How good is it now? Whole answers right on what is held out, by one forward pass (lab.eval is the measure).

An answer counts when every one of its tokens is the likeliest after the right ones before it: then greedy decoding says
just that answer. Tasks are drawn from the valid tables and the held-out texts, the same ones each time.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from lab.loader import renderer_of, row_tensors
from lab.net import Net, Row
from lab.pieces import SAY
from lab.plan import LONG
from lab.render import Renderer
from lab.tokenizer import NONE

TASKS = [  # task, limit in tokens
    ("ask", 1024),
    ("point", 2048),
    ("article", 2048),
    ("article", 8192),
    ("article", 32768),
    ("blanks", 2048),
    ("blanks", 16384),
    ("needle", 2048),
    ("needle", 16384),
    ("keys", 8192),
    ("values", 4096),
    ("track", 4096),
    ("find", 4096),
    ("summarise", 4096),
    ("language", 2048),
]
Drawn = list[tuple[np.ndarray, np.ndarray]]


def drawn(renderer: Renderer, task: str, limit: int, size: int) -> Drawn:
    """Whole sequences of a task, together at most `size` tokens."""
    found, room = [], size
    while room > 64:
        ids, kinds = renderer.draw(task, min(limit, size))
        room -= len(ids)
        if room >= 0:
            found.append((ids, kinds))
    return found


def answers(kinds: np.ndarray) -> Iterator[tuple[int, int]]:
    """(start, end) of every run of tokens to be said."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (kinds == SAY).astype(np.int8), [0]])))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


@torch.no_grad()
def forward(net: Net, sequences: Drawn, device: torch.device) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(the row, the likeliest next token of each, the loss of each)."""
    ids = np.concatenate([ids for ids, _ in sequences])
    ends = np.cumsum([0, *(len(ids) for ids, _ in sequences)])
    tokens, targets, _, ends_t = row_tensors(ids, np.ones(len(ids)), ends)
    row = Row(ends_t, device)
    x, _ = net.hidden(tokens.to(device), row)
    best, loss = [], []
    for part, wanted in zip(x.split(4096), targets.to(device).split(4096), strict=True):
        logits = net.logits(part).float()
        best.append(logits.argmax(-1))
        loss.append(torch.nn.functional.cross_entropy(logits, wanted, reduction="none"))
    return ids, torch.cat(best).cpu().numpy(), torch.cat(loss).cpu().numpy()


def score(net: Net, sequences: Drawn, device: torch.device) -> dict[str, float]:
    """Shares of answers that are right, of absent ones refused, of present ones refused; the loss of a token."""
    ids, best, loss = forward(net, sequences, device)
    counts: dict[str, list[bool]] = defaultdict(list)
    for start, end in answers(np.concatenate([kinds for _, kinds in sequences])):
        absent, refused = ids[start] == NONE, best[start - 1] == NONE
        counts["refused" if absent else "refused_falsely"].append(bool(refused))
        if not absent:
            counts["exact"].append(bool((best[start - 1 : end - 1] == ids[start:end]).all()))
    shares = {name: round(100 * float(np.mean(hits)), 2) for name, hits in counts.items()}
    return {"loss": round(float(loss.mean()), 4), "n": len(counts["exact"]), "absent": len(counts["refused"])} | shares


def run(net: Net, data: Path, out: Path, size: int, rank: int, world: int, device: torch.device) -> None:
    """Every process takes some of the tasks and writes probe-RANK.json."""
    found = {}
    with torch.compiler.set_stance("force_eager"):
        for number, (task, limit) in enumerate(TASKS):
            if number % world == rank:
                renderer = renderer_of(data / "held/tables", data / "held/corpus", 7)
                renderer.retune(LONG)
                renderer.swap_share, renderer.left_out = 0.0, (0.0,)
                found[f"{task} {limit}"] = score(net, drawn(renderer, task, limit, size), device)
    (out / f"probe-{rank}.json").write_text(json.dumps(found, indent=1))
    print("\n".join(f"{name:16} {shares}" for name, shares in found.items()), flush=True)
