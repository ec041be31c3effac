"""Fine-tune a model in released format on rows of one's own. A run that is killed goes on where it stood.

Everything that decides a weight is in run.json, the data's order comes from the seed, and nothing is drawn while
training: on a CPU, and with the same number of threads, a broken run ends with the bits of an unbroken one.
"""

import json
import math
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from lab.export import save_model
from lab.finetune import checkpoint
from lab.finetune.batches import Example, examples, on, plan, row_of, tokens_of
from lab.finetune.rows import DataError, Text, read_rows
from lab.finetune.score import Judge, Scores, score
from lab.kda_cpu import remember_in_chunks
from lab.net import KDA, Net, Row, read_config
from lab.vocab import Vocabulary
from lab.weights import load_into, read

HELD_OUT = 10  # one text in so many, where no validation file is given
SAVING = 20  # a checkpoint is written when this many times what it costs has passed
WARM = 0.1  # share of the steps over which the rate rises
TRAINED = {"num_experts_per_token": 2, "routed_scaling_factor": 1.0, "moe_renormalize": True}  # what lab/net.py is
TRAINED |= {"gate_lower_bound": None, "use_full_rank_gate": False}


@dataclass(frozen=True)
class Settings:
    data: Path
    valid: Path | None
    model: Path
    out: Path
    epochs: int
    steps: int | None
    rate: float
    seed: int


@dataclass(frozen=True)
class Scoring:
    """A row of the validation was looked at: `done` of `total`."""

    done: int
    total: int


@dataclass(frozen=True)
class Step:
    """A step was taken: `done` of `total` tokens, in all; the mean loss of the step's tokens, as weighed."""

    number: int
    steps: int
    loss: float
    done: int
    total: int


@dataclass(frozen=True)
class Found:
    """What the validation says, before or after."""

    when: str
    scores: Scores


Event = Scoring | Step | Found


def run(settings: Settings, resume: bool = True) -> Iterator[Event]:
    """Reads and checks the rows, measures, trains, writes OUT/model, measures again.

    What is done already is not done again, unless not to resume. Raises DataError, RunError.
    """
    check_model(settings.model)
    rows, valid = divided(settings)
    found = examples(rows, Vocabulary(Tokenizer.from_file(str(settings.model / "tokenizer.json"))))
    if not resume:
        checkpoint.clear(settings.out)
    checkpoint.claim(settings.out, identity(settings))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    yield from measured("before", settings.model, settings.out, valid, device)
    if not (settings.out / "model").exists():
        yield from trained(settings, found, device)
    yield from measured("after", settings.out / "model", settings.out, valid, device)


def check_model(folder: Path) -> None:
    missing = [n for n in ("config.json", "tokenizer.json", "model.safetensors") if not (folder / n).is_file()]
    if missing:
        raise DataError(f"{folder} has no {', '.join(missing)}: --model names a folder like lab/model")
    config = read_config(folder / "config.json")
    found = {"use_full_rank_gate": False} | config | config.get("linear_attn_config", {})
    other = [f"{name} {found.get(name)!r}" for name, trained in TRAINED.items() if found.get(name) != trained]
    if other:
        raise DataError(f"{folder} has {', '.join(other)}, which lab/net.py does not compute: it has {TRAINED}")


def divided(settings: Settings) -> tuple[list[Text], list[Text]]:
    """(to learn from, to measure by): no text is in both."""
    rows = read_rows(settings.data)
    if settings.valid:
        valid = read_rows(settings.valid)
        seen = {row.text for row in rows}
        if shared := sum(row.text in seen for row in valid):
            raise DataError(f"{shared} rows of {settings.valid} have a text that is in {settings.data} too")
        return rows, valid
    texts = sorted({row.text for row in rows})
    if len(texts) < 2:
        raise DataError(f"{settings.data} has one text only, so none can be held out: give rows to measure by, --valid")
    held = set(random.Random(settings.seed).sample(texts, max(1, len(texts) // HELD_OUT)))
    return [r for r in rows if r.text not in held], [r for r in rows if r.text in held]


def identity(settings: Settings) -> dict:
    """What decides the weights."""
    files = [settings.model / name for name in ("config.json", "tokenizer.json")]
    fields = {k: v for k, v in asdict(settings).items() if k not in ("data", "valid", "model", "out")}
    return fields | {
        "data": checkpoint.digest(settings.data),
        "valid": settings.valid and checkpoint.digest(settings.valid),
        "model": checkpoint.digest(*files, *sorted(settings.model.glob("*.safetensors"))),
        "torch": torch.__version__,
    }


def measured(when: str, model: Path, out: Path, rows: list[Text], device: torch.device) -> Iterator[Event]:
    path = out / f"{when}.json"
    if not path.exists():
        for number, scores in enumerate(score(Judge(model, device), rows), 1):
            if scores is None:
                yield Scoring(number, len(rows))
            else:
                checkpoint.write(path, json.dumps(scores, indent=1) + "\n")
    yield Found(when, json.loads(path.read_text()))


def trained(settings: Settings, found: list[Example], device: torch.device) -> Iterator[Step]:
    torch.manual_seed(settings.seed)
    net = net_of(settings.model, device)
    optimiser = torch.optim.AdamW(net.parameters(), settings.rate, betas=(0.9, 0.95), weight_decay=0.0)
    lengths = [len(e.tokens) for e in found]
    steps = plan(lengths, settings.seed, settings.epochs, settings.steps)
    first, total = checkpoint.load(settings.out, net, optimiser), sum(tokens_of(b, lengths) for b in steps)
    done, saved, cost = sum(tokens_of(b, lengths) for b in steps[:first]), time.monotonic(), 0.0
    for number, batch in enumerate(steps[first:], first):
        optimiser.param_groups[0]["lr"] = settings.rate * share(number, len(steps))
        loss = one_step(net, optimiser, on(device, row_of([found[i] for i in batch])))
        check_finite(loss, number + 1, settings)
        done += tokens_of(batch, lengths)
        if time.monotonic() - saved > SAVING * cost:
            begun = time.monotonic()
            checkpoint.save(settings.out, net, optimiser, number + 1)
            saved = time.monotonic()
            cost = saved - begun
        yield Step(number + 1, len(steps), loss, done, total)
    export(net, settings)


def net_of(model: Path, device: torch.device) -> Net:
    """The training model with the folder's weights; a head that is the embedding is trained as one with it."""
    found = read(model / "model.safetensors")
    embedding = found["model.embed_tokens.weight"]
    tied = torch.equal(found.get("lm_head.weight", embedding), embedding)
    absent = {"kv_a_layernorm_eps": 1e-6}  # what the engine takes an absent field for
    config = absent | read_config(model / "config.json") | {"tie_word_embeddings": tied}
    net = Net(config, torch.bfloat16 if device.type == "cuda" else torch.float32)
    load_into(net, found)
    if device.type == "cpu":  # fla's kernels need a GPU
        for mixer in (layer.self_attn for layer in net.layers):
            if isinstance(mixer, KDA):
                mixer.mix = partial(_mix_in_chunks, mixer)  # type: ignore[method-assign]
    return net.to(device)


def _mix_in_chunks(mixer: KDA, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, row: Row) -> Tensor:
    return remember_in_chunks(q, k, v, decay, beta, mixer.A_log, mixer.dt_bias, row)


def share(step: int, steps: int) -> float:
    """Of the full rate: up over the first tenth, then down to nothing in a line."""
    warm = max(1, round(WARM * steps))
    return (step + 1) / warm if step < warm else (steps - step) / max(1, steps - warm)


def one_step(net: Net, optimiser: torch.optim.AdamW, row: tuple[Tensor, ...]) -> float:
    tokens, targets, weights, ends = row
    hidden, _ = net.hidden(tokens, Row(ends.cpu(), tokens.device))
    loss = (net.losses(hidden, targets) * weights).sum() / weights.sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad()
    return float(loss.detach())


def check_finite(loss: float, number: int, settings: Settings) -> None:
    if not math.isfinite(loss):
        raise checkpoint.RunError(
            f"the loss is {loss} at step {number}: begin anew with a --rate below {settings.rate}"
        )


def export(net: Net, settings: Settings) -> None:
    """OUT/model appears whole; the checkpoint, six times its size, is of no more use."""
    part = settings.out / ".model.part"
    save_model(net, part)
    shutil.copyfile(settings.model / "tokenizer.json", part / "tokenizer.json")
    part.rename(settings.out / "model")
    (settings.out / checkpoint.NAME).unlink(missing_ok=True)
