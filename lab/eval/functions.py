"""A description, a repository without its docstrings: which function is meant? Path and line, the first named.

The pack's `valid` repositories, and Python packages of this environment that are in no part of the pack. `product`:
services/agent (candidates by weights, the model names a line). `candidates`: the first candidate without the model.
`bm25`: plain BM25 over path, name and code; `bm25.functions`: the same with classes and types left out, which are never
right here. Only the described function is right, though its words may fit others.
"""

import re
from functools import lru_cache, partial

from lab.eval.asking import each
from lab.eval.items import Missing, sample, valid
from lab.eval.repositories import Case, Place, installed, of_pack
from lab.eval.run import Figures, Run, percent
from lab.scoring import gain
from services.agent import answer, repo
from services.agent.retrieve import index_of
from services.agent.symbols import CLASSES, split
from services.agent.types import SourceView
from services.inference.client import InferenceClient

INSTALLED = ("alembic", "kombu", "prometheus_client", "typer")
PLACE = re.compile(r"`([^`\n]+):(\d+)`")
NO_MINILM = "MiniLM alone: no figure. Its weights are not part of this repository, and an evaluation downloads nothing."


def measure(run: Run) -> Figures:
    run.notes.append(NO_MINILM)
    sets: dict[str, tuple[dict[str, SourceView], list[Case]]] = {"fresh": fresh()}
    try:
        sets["pack"] = of_pack(valid("repoqa/functions"))
    except Missing as missing:
        run.notes.append(str(missing))
    picked: dict[str, list[Case]] = {
        name: sample(cases, run.n // len(sets), run.seed) for name, (_, cases) in sets.items()
    }
    run.total(sum(map(len, picked.values())))
    out: Figures = {}
    for name, (views, _) in sets.items():
        cases = picked[name]
        run.notes.extend(
            f"{repo}: {len(view.symbols)} symbols, {len(view.files)} files" for repo, view in views.items()
        )
        told = each(partial(named, run.client, views), cases, run.step)
        out |= figures(f"functions.{name}", cases, told)
    return out


def fresh() -> tuple[dict[str, SourceView], list[Case]]:
    found = {name: installed(name) for name in INSTALLED}
    return {name: view for name, (view, _) in found.items()}, [c for _, cases in found.values() for c in cases]


def named(client: InferenceClient, views: dict[str, SourceView], case: Case) -> dict[str, Place | None]:
    view, description = views[case.repo], case.description
    told = PLACE.match(answer(client, [view], "", description).text)
    first = repo.candidates([view], description)[:1]
    return {
        "product": (told[1], int(told[2])) if told else None,
        "candidates": (first[0].symbol.path, first[0].line()) if first else None,
        "bm25": next(iter(first_by_bm25(view, description, 1)), None),
        "bm25.functions": next(iter(first_by_bm25(view, description, 1, functions_only=True)), None),
    }


def first_by_bm25(view: SourceView, description: str, most: int, functions_only: bool = False) -> list[Place]:
    """Over path, name and code, identifiers split; no weights, no favours."""
    found = index_of(plain_rows(view)).search(split(description), len(view.symbols))
    best = [repo.Candidate(view, view.symbols[number], score) for number, score in found]
    left = [one for one in best if not (functions_only and one.symbol.kind in CLASSES)]
    return [(one.symbol.path, one.line()) for one in left[:most]]


@lru_cache(maxsize=4)
def plain_rows(view: SourceView) -> tuple[str, ...]:
    return tuple(split(f"{s.path} {s.name} {view.text[s.char[0] : s.char[1]]}") for s in view.symbols)


def figures(name: str, cases: list[Case], told: list[dict[str, Place | None]]) -> Figures:
    hits = [
        {way: float(place == case.place) for way, place in ways.items()} for case, ways in zip(cases, told, strict=True)
    ]
    out = {f"{name}.{way}": percent([hit[way] for hit in hits]) for way in hits[0]}
    for way in ("bm25", "bm25.functions"):
        better = [hit["product"] - hit[way] for hit in hits]
        out[f"{name}.over.{way}"] = gain(better) | {"unit": "%, paired difference"}
    return out
