"""What services/agent/repo.py ranks a repository's definitions by: words.npz, then the weights in find.json.

Words: from the described functions of the pack's `train` repositories and of Python packages of this environment that
are in no part of the pack and not measured on (lab/learn/words.py). Weights: from some of these packages; they make the
described function likeliest among the repository's definitions (softmax, cross-entropy, ridge). So that a package is
never weighed by words that it taught, packages are in five folds, with words for each from all the others.

Printed: how often the described function is among the first 1, 5, 10, by words and weights of the other folds, for
plain BM25, without and with the words. Last, how far the model's word moves the odds: one number that makes the
described function likeliest among the candidates, over `--asked` descriptions that are put to the model as the product
does (0 keeps the number there is; `--only-model` learns this one again and nothing else).
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from lab.eval.asking import each, groups
from lab.eval.functions import INSTALLED, first_by_bm25
from lab.eval.items import pack_file
from lab.eval.product import product
from lab.eval.repositories import Case, Place, installed, of_pack
from lab.learn.words import Pair, learn_words
from lab.pack import rows
from services.agent.copied import numbers
from services.agent.meaning import TABLE, Table, table
from services.agent.model import say, special
from services.agent.repo import MODEL, WEIGHTS, Candidate, candidates, learned, pointed_at, prompt, weights
from services.agent.symbols import SEEN, SymbolIndex, asked, fields
from services.agent.turn import ANSWER_TOKENS
from services.agent.types import SourceView
from services.inference.client import InferenceClient
from services.inference.pb.inference_pb2 import Copy

PACKAGES = """amqp anyio billiard dateutil fastapi filelock fsspec grimp grpc httpcore huggingface_hub hypothesis
    importlinter mako markdown_it packaging path pluggy prompt_toolkit psutil psycopg pydantic pypdfium2 pyrsistent
    redis regex sortedcontainers tqdm uvicorn""".split()  # noqa: SIM905
RIVALS = 250  # definitions nearest by BM25 that a described one is compared with
FOLDS, RIDGE = 5, 1e-3
RECALL = (1, 5, 10)


Choice = tuple[np.ndarray, int, int]  # see `choice`


@dataclass(frozen=True)
class Example:
    package: str
    seen: np.ndarray  # [rivals + 1, SEEN], the described one last
    missed: bool  # it was not among the rivals
    bm25: int  # its place by plain BM25


def learn(n: int, asked: int, seed: int) -> None:
    examples = learn_by_folds(n, seed)
    named = dict(zip(SEEN, fitted(examples, list(range(len(SEEN)))).tolist(), strict=True))
    command = f"python -m lab.learn functions --n {n} --asked {asked} --seed {seed}"
    origin = {"command": command, "descriptions": len(examples), "packages": sorted({e.package for e in examples})}
    store({"weights": named | {MODEL: learned().get(MODEL, 0.0)}} | origin)
    if asked:
        learn_model(asked, seed)


def learn_model(asked: int, seed: int) -> None:
    made = json.loads(WEIGHTS.read_text())
    made["weights"][MODEL] = lift_of_model(asked, seed)
    store(made | {"model": f"python -m lab.learn functions --only-model --asked {asked} --seed {seed}"})


def learn_by_folds(n: int, seed: int) -> list[Example]:
    """Each package's examples by words of the others; then the words of all, stored."""
    taught = {package: pairs(*installed(package)) for package in PACKAGES}
    pack, examples = pairs_of_pack(), []
    for fold in range(FOLDS):
        mine = [package for package in PACKAGES if folds()[package] == fold]
        others = [rows for package, rows in taught.items() if package not in mine]
        examples += examples_of(mine, n, seed, learn_words([*pack, *others]))
    report(examples)
    learn_words([*pack, *taught.values()]).save(TABLE)
    table.cache_clear()
    return examples


@lru_cache(maxsize=1)
def folds() -> dict[str, int]:
    return {package: n % FOLDS for n, package in enumerate(random.Random(1).sample(PACKAGES, len(PACKAGES)))}


def examples_of(packages: Sequence[str], n: int, seed: int, words: Table) -> list[Example]:
    return [example for package in packages for example in of_package(package, n, seed, words)]


def store(made: dict) -> None:
    rounded = {name: round(weight, 4) for name, weight in made["weights"].items()}
    WEIGHTS.write_text(json.dumps(made | {"weights": rounded}, indent=1) + "\n")
    weights.cache_clear()
    learned.cache_clear()


def lift_of_model(asked: int, seed: int) -> float:
    """Over descriptions whose function is among the candidates. Weights and words are those stored."""
    views = {package: installed(package) for package in PACKAGES}
    cases = [case for _, found in views.values() for case in found]
    picked = random.Random(seed).sample(cases, min(asked, len(cases)))
    with product() as client:
        told = each(lambda case: choice(client, views[case.repo][0], case), picked, lambda: None)
    known = [one for one in told if one]
    right = np.mean([pointed == place for _, pointed, place in known])
    first = np.mean([place == 0 for _, _, place in known])
    print(
        f"model: of {len(known)} among the candidates, points at {100 * right:.1f} %; the first is {100 * first:.1f} %"
    )
    return lift(known)


def choice(client: InferenceClient, view: SourceView, case: Case) -> Choice | None:
    """Log shares of the candidates, which of them the model points at (or -1), which is right; None: none is."""
    shown = candidates([view], case.description)
    places = [(c.symbol.path, c.line()) for c in shown]
    if case.place not in places:
        return None
    parts = prompt(case.description, shown)
    said = say(client, "", [*parts, special("answer")], ANSWER_TOKENS, Copy(parts=numbers(parts)))
    pointed = pointed_at(said.quotes, shown)
    which = next((n for n, c in enumerate(shown) if c is pointed), -1)
    return np.log([max(c.score, 1e-12) for c in shown]), which, places.index(case.place)


def lift(choices: Sequence[Choice]) -> float:
    """The likeliest of 0 to 8 in steps of 0.05; below 0 it would count against what the model says."""

    def likelihood(step: float) -> float:
        scores = [shares + step * (np.arange(len(shares)) == pointed) for shares, pointed, _ in choices]
        return sum(float(s[right] - np.logaddexp.reduce(s)) for s, (_, _, right) in zip(scores, choices, strict=True))

    return max(np.arange(0, 8.01, 0.05).tolist(), key=likelihood)


def pairs_of_pack() -> list[list[Pair]]:
    views, cases = of_pack([row for row in rows(pack_file("repoqa/functions")) if row["split"] == "train"])
    return [pairs(views[group[0].repo], group) for group in groups(cases, lambda case: case.repo)]


def pairs(view: SourceView, cases: Sequence[Case]) -> list[Pair]:
    numbered = places(view)
    found = [(case, view.symbols[numbered[case.place]]) for case in cases if case.place in numbered]
    return [(asked(case.description), list(fields(view, symbol).values())) for case, symbol in found]


def places(view: SourceView) -> dict[Place, int]:
    return {(s.path, Candidate(view, s, 0.0).line()): n for n, s in enumerate(view.symbols)}


def of_package(package: str, n: int, seed: int, words: Table) -> list[Example]:
    if package in INSTALLED:
        raise ValueError(f"{package} is measured on (lab.eval functions): not for learning")
    view, cases = installed(package)
    numbered, index = places(view), SymbolIndex(view, words)
    known = [case for case in cases if case.place in numbered]
    picked = random.Random(seed).sample(known, min(n, len(known)))
    return [example(view, index, case, numbered[case.place]) for case in picked]


def example(view: SourceView, index: SymbolIndex, case: Case, right: int) -> Example:
    seen = index.seen(case.description)
    rivals = np.argsort(-seen[:, :5].sum(axis=1), kind="stable")[:RIVALS]
    ordered = first_by_bm25(view, case.description, max(RECALL))
    rank = ordered.index(case.place) if case.place in ordered else RIVALS
    others = [n for n in rivals if n != right]
    return Example(case.repo, seen[[*others, right]].astype(np.float32), right not in rivals, rank)


def fitted(examples: Sequence[Example], columns: Sequence[int]) -> np.ndarray:
    """[len(columns)] weights."""
    most = max(len(e.seen) for e in examples)
    table, hidden = np.zeros((len(examples), most, len(columns)), np.float32), np.full((len(examples), most), -1e9)
    for n, e in enumerate(examples):
        table[n, : len(e.seen)], hidden[n, : len(e.seen)] = e.seen[:, columns], 0.0
    spread = table[hidden == 0].std(axis=0) + 1e-6
    rows, mask = torch.from_numpy(table / spread), torch.from_numpy(hidden.astype(np.float32))
    right = torch.tensor([len(e.seen) - 1 for e in examples])
    weights = torch.zeros(len(columns), requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(rows @ weights + mask, right) + RIDGE * (weights**2).sum()
        value.backward()
        return value

    optimiser.step(loss)
    return weights.detach().numpy() / spread


def report(examples: Sequence[Example]) -> None:
    whole = list(range(len(SEEN)))
    show("plain BM25", [e.bm25 for e in examples])
    show("weights, without the words", left_out(examples, [n for n in whole if SEEN[n] != "meaning"]))
    show("weights, with the words", left_out(examples, whole))


def left_out(examples: Sequence[Example], columns: Sequence[int]) -> list[int]:
    """The described function's place among its rivals, by weights of the other folds' packages."""
    fold = folds()
    made = [fitted([e for e in examples if fold[e.package] != n], columns) for n in range(FOLDS)]
    return [place(e, made[fold[e.package]], columns) for e in examples]


def place(example: Example, weights: np.ndarray, columns: Sequence[int]) -> int:
    score = example.seen[:, columns] @ weights
    return RIVALS if example.missed else int((score > score[-1]).sum())


def show(name: str, found: Sequence[int]) -> None:
    shares = " ".join(f"@{most} {100 * np.mean(np.array(found) < most):.1f} %" for most in RECALL)
    print(f"{name:30} {shares}   n={len(found)}", flush=True)
