"""A description, a repository without its docstrings: which function is meant? Path and line, the first named.

A repository is rebuilt from its functions of the pack, each at its own line of its own file; the product parses it as
an upload. `product`: services/agent (candidates by BM25, the model names the line). `candidates`: the first candidate
without the model. `bm25`: plain BM25 over path, name and code. Only the described function counts as right, also when
the description fits others.
"""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lab.eval.asking import each, groups
from lab.eval.items import Row, sample, valid
from lab.eval.run import Figures, Run, percent
from lab.tables import definition
from services.agent import answer, repo
from services.agent.retrieve import index_of
from services.agent.types import SourceView
from services.inference.client import InferenceClient
from services.ingest import parse_repository

LEAST = 20  # characters of a description that says something
PLACE = re.compile(r"`([^`\n]+):(\d+)`")
Place = tuple[str, int]  # path, line
NO_MINILM = (
    "functions: MiniLM alone is not measured: its weights are not part of this repository and nothing is downloaded "
    "by an evaluation."
)


def measure(run: Run) -> Figures:
    run.notes.append(NO_MINILM)
    rows = valid("repoqa/functions")
    picked = sample([r for r in rows if len(r["description"]) >= LEAST and line_of(r)], run.n, run.seed)
    run.total(len(picked))
    views = {group[0]["repo"]: rebuilt(group) for group in groups(rows, lambda r: r["repo"])}
    run.notes.extend(
        [f"functions: {name}: {len(v.symbols)} symbols in {len(v.files)} files" for name, v in views.items()]
    )
    told = each(lambda row: named(run.client, views[row["repo"]], row["description"]), picked, run.step)
    out: Figures = {}
    for part in ("", *sorted(views)):
        chosen = [(row, ways) for row, ways in zip(picked, told, strict=True) if part in ("", row["repo"])]
        for way in told[0] if chosen else ():
            hits = [float(ways[way] == (row["path"], line_of(row))) for row, ways in chosen]
            out[".".join(filter(None, ("functions", part.split("/")[-1], way)))] = percent(hits)
    return out


def line_of(row: Row) -> int | None:
    """The line of the definition itself, behind decorators and attributes."""
    at = definition(row["code"])
    return row["start_line"] + row["code"].count("\n", 0, at[0]) if at else None


def rebuilt(rows: Sequence[Row]) -> SourceView:
    """The repository as the product sees it: every function at its line, empty lines between. Overlapping ones go."""
    with tempfile.TemporaryDirectory() as folder:
        for group in groups(rows, lambda r: r["path"]):
            path = (
                Path(folder) / "repository" / "top" / group[0]["path"]
            )  # a lone folder around everything is taken off
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file_of(group))
        parsed = parse_repository(Path(folder) / "repository", "repository")
    name = rows[0]["repo"]
    parts = parsed.text, parsed.blocks, parsed.outline, parsed.files, parsed.symbols
    return SourceView(name, "repository", name, *parts)


def file_of(rows: Sequence[Row]) -> str:
    lines: list[str] = []
    for row in sorted(rows, key=lambda r: r["start_line"]):
        if len(lines) < row["start_line"]:
            lines += [""] * (row["start_line"] - 1 - len(lines))
            lines += row["code"].splitlines()
    return "\n".join(lines) + "\n"


def named(client: InferenceClient, view: SourceView, description: str) -> dict[str, Place | None]:
    told = PLACE.match(answer(client, [view], "", description).text)
    first = repo.candidates([view], description)[:1]
    return {
        "product": (told[1], int(told[2])) if told else None,
        "candidates": (first[0].symbol.path, first[0].line()) if first else None,
        "bm25": plain_bm25(view, description),
    }


def plain_bm25(view: SourceView, description: str) -> Place | None:
    """Over path, name and code, identifiers split; no weights, no favours."""
    rows = tuple(repo.split(f"{s.path} {s.name} {view.text[s.char[0] : s.char[1]]}") for s in view.symbols)
    found = index_of(rows).search(repo.split(description), 1)
    if not found:
        return None
    best = repo.Candidate(view, view.symbols[found[0][0]], found[0][1])
    return best.symbol.path, best.line()
