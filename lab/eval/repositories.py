"""Repositories without their docstrings, and what each of their functions is for: the pack's and installed ones."""

import ast
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from lab.eval.asking import groups
from lab.eval.items import Row
from lab.tables import definition
from services.agent.types import SourceView
from services.ingest import parse_repository

Place = tuple[str, int]  # path, line of the definition itself, behind decorators and attributes
LEAST = 20  # characters of a description that says something
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Case:
    repo: str
    description: str
    place: Place


def of_pack(rows: Sequence[Row]) -> tuple[dict[str, SourceView], list[Case]]:
    """Rebuilt from the pack's functions, each at its line of its file, empty lines between; overlapping ones go."""
    views = {}
    for group in groups(rows, lambda r: r["repo"]):
        files = {one[0]["path"]: file_of(one) for one in groups(group, lambda r: r["path"])}
        views[group[0]["repo"]] = uploaded(group[0]["repo"], files)
    cases = [Case(r["repo"], r["description"], (r["path"], line_of(r) or 0)) for r in rows if line_of(r)]
    return views, [case for case in cases if len(case.description) >= LEAST]


def line_of(row: Row) -> int | None:
    at = definition(row["code"])
    return row["start_line"] + row["code"].count("\n", 0, at[0]) if at else None


def file_of(rows: Sequence[Row]) -> str:
    lines: list[str] = []
    for row in sorted(rows, key=lambda r: r["start_line"]):
        if len(lines) < row["start_line"]:
            lines += [""] * (row["start_line"] - 1 - len(lines))
            lines += row["code"].splitlines()
    return "\n".join(lines) + "\n"


def installed(package: str) -> tuple[SourceView, list[Case]]:
    """A Python package of this environment, whole, its docstrings blanked. ModuleNotFoundError when it is not there."""
    spec = PathFinder.find_spec(package)  # also of a module that has put another in its place (kombu)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"no package {package} in this environment")
    root = Path(next(iter(spec.submodule_search_locations)))
    sources = {str(path.relative_to(root.parent)): path.read_text() for path in sorted(root.rglob("*.py"))}
    stripped = {path: without_docstrings(source) for path, source in sources.items() if "/test" not in path}
    cases = [Case(package, *one) for path in stripped for one in described(path, sources[path])]
    return uploaded(package, stripped), cases


def described(path: str, source: str) -> Iterator[tuple[str, Place]]:
    """First paragraphs of docstrings, without the function's own name."""
    for node in ast.walk(ast.parse(source)):
        words = ast.get_docstring(node) if isinstance(node, FUNCTIONS) else None
        if words and isinstance(node, FUNCTIONS):
            first = " ".join(words.split("\n\n")[0].split())
            first = re.sub(rf"^`*{re.escape(node.name)}`*\W*", "", first)
            if len(first) >= LEAST:
                yield first, (path, node.lineno)


def without_docstrings(source: str) -> str:
    """Every line keeps its number; a body of nothing else becomes `...`."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.Module)) and ast.get_docstring(node) is not None:
            words = node.body[0]
            first, last = words.lineno - 1, words.end_lineno or words.lineno
            lines[first:last] = [" " * words.col_offset + "..."] + [""] * (last - first - 1)
            if len(node.body) > 1:
                lines[first] = ""
    return "\n".join(lines) + "\n"


def uploaded(name: str, files: dict[str, str]) -> SourceView:
    """As the product sees it after an upload; a lone folder around everything would be taken off the paths."""
    with tempfile.TemporaryDirectory() as folder:
        for path, words in files.items():
            at = Path(folder) / "repository" / "top" / path
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_text(words)
        parsed = parse_repository(Path(folder) / "repository", "repository")
    parts = parsed.text, parsed.blocks, parsed.outline, parsed.files, parsed.symbols
    return SourceView(name, "repository", name, *parts)
