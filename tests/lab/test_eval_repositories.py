"""A repository without docstrings keeps its lines, parses, and every description's place is a definition."""

import ast
import random

from lab.eval.functions import figures, first_by_bm25
from lab.eval.repositories import Case, described, file_of, installed, line_of, of_pack, without_docstrings
from services.agent import repo

SOURCE = '''"""About the module."""
import os


class Lamp:
    """A lamp that
    can be dimmed."""

    @property
    def bright(self) -> int:
        """bright: how much light it gives off now.

        In lumen.
        """
        return os.getpid()

    def glow(self):
        """Shines with a soft warm light all night long."""
'''


def test_docstrings_go_and_lines_stay() -> None:
    stripped = without_docstrings(SOURCE)
    assert '"""' not in stripped and "lumen" not in stripped
    tree = ast.parse(stripped)
    assert [n.lineno for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)] == [10, 17]
    assert stripped.count("\n") == SOURCE.count("\n")


def test_descriptions_and_places() -> None:
    assert list(described("lamp.py", SOURCE)) == [
        ("how much light it gives off now.", ("lamp.py", 10)),
        ("Shines with a soft warm light all night long.", ("lamp.py", 17)),
    ]


def test_the_packs_functions_stand_at_their_lines() -> None:
    rows = [
        {"repo": "a/b", "path": "b/x.py", "name": name, "start_line": line, "code": code, "description": "d" * 30}
        for name, line, code in (
            ("one", 7, "@cached\ndef one(x):\n    return x"),
            ("two", 3, "def two():\n    pass"),
            ("over", 8, "def over():\n    pass"),
        )
    ]
    assert file_of(rows).splitlines() == [
        "",
        "",
        "def two():",
        "    pass",
        "",
        "",
        "@cached",
        "def one(x):",
        "    return x",
    ]
    assert [line_of(row) for row in rows] == [8, 3, 8]
    views, cases = of_pack(rows)
    assert {(s.path, repo.Candidate(views["a/b"], s, 0.0).line()) for s in views["a/b"].symbols} == {
        ("b/x.py", 8),
        ("b/x.py", 3),
    }
    assert [case.place for case in cases] == [("b/x.py", 8), ("b/x.py", 3), ("b/x.py", 8)]


def test_an_installed_package_is_found_by_its_code() -> None:
    view, cases = installed("prometheus_client")
    places = {(s.path, repo.Candidate(view, s, 0.0).line()) for s in view.symbols}
    assert len(cases) > 50 and all(case.place in places for case in cases)
    assert not any(case.description in view.text for case in random.Random(1).sample(cases, 30))
    found = first_by_bm25(view, "generate latest metrics openmetrics", 30)
    assert len(found) == 30 and set(found) <= places
    classes = {(s.path, repo.Candidate(view, s, 0.0).line()) for s in view.symbols if s.kind == "class"}
    functions = first_by_bm25(view, "generate latest metrics openmetrics", 30, functions_only=True)
    assert set(found) & classes and not set(functions) & classes
    assert functions[0] == next(place for place in found if place not in classes)


def test_hits_and_paired_differences() -> None:
    case, other = Case("r", "d", ("a.py", 3)), ("a.py", 9)
    told = [{"product": case.place, "candidates": other, "bm25": None, "bm25.functions": case.place}] * 4
    made = figures("f", [case] * 4, told)
    assert [made[f"f.{way}"]["value"] for way in told[0]] == [100, 0, 0, 100]
    assert made["f.over.bm25"]["value"] == 100 and made["f.over.bm25.functions"]["value"] == 0
