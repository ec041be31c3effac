"""What a run leaves behind and takes up again.

On one machine everything goes on: weights, moments of the optimiser, counters (`checkpoint.safetensors`, 350 MB). To
another machine only the weights travel (bf16, 50 MiB as zstd; `lab.weights.pack` makes eight bits of them, 24 MiB) with
`state.json`; the moments are warmed up anew.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file

from lab.export import tensors
from lab.net import Net
from lab.optim import Optimiser
from lab.weights import load_into, read


@dataclass
class State:
    step: int = 0  # taken so far
    tokens: int = 0  # read so far, all processes together
    plan: float = 0.0  # where the plan is, 0 to 1
    warm_from: int = 0  # the step at which the optimiser's moments began
    run: int = 0  # how often it was begun: every run draws other data


def save(net: Net, optimiser: Optimiser, state: State, out: Path) -> None:
    """checkpoint.safetensors, weights.safetensors (released names, bf16) and state.json; each appears whole."""
    held = {f"net.{name}": x for name, x in net.state_dict().items()} | optimiser.state()
    write({name: x.detach().contiguous() for name, x in held.items()}, out / "checkpoint.safetensors")
    write(tensors(net), out / "weights.safetensors")
    (out / "state.json").write_text(json.dumps(asdict(state)))


def write(found: dict, file: Path) -> None:
    save_file(found, file.with_suffix(".part"))
    file.with_suffix(".part").rename(file)


def read_state(file: Path) -> State:
    return State(**json.loads(file.read_text()))


def resume(net: Net, optimiser: Optimiser, out: Path, weights: Path | None) -> State:
    """The checkpoint in OUT; else weights from another machine and the state.json beside them; else a beginning."""
    if (out / "checkpoint.safetensors").exists():
        found = load_file(out / "checkpoint.safetensors", device=str(next(net.parameters()).device))
        net.load_state_dict({name[4:]: x for name, x in found.items() if name.startswith("net.")})
        optimiser.load({name: x for name, x in found.items() if not name.startswith("net.")})
        state = read_state(out / "state.json")
    elif weights:
        load_into(net, read(weights))
        state = read_state(weights.parent / "state.json")
        state.warm_from = state.step
    else:
        return State()
    state.run += 1
    return state
