"""Repositories: what is read, in which order, where each symbol stands."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest.chunks import file_cuts
from services.ingest.draft import Lines
from services.ingest.repository import parse_repository
from services.ingest.segments import segments
from services.ingest.symbols import symbols_of
from tests.ingest.makers import check, parse, tar_bytes, zip_bytes

PYTHON = '''"""Möbel — täglich."""

import os


@cached
def first(a, b=1):  # one
    return a


class Box(Base):
    """A box."""

    def put(self, thing: str) -> None:
        def inner():
            pass

    @property
    async def size(self): return 1
'''
SAMPLES = {
    "Python": (PYTHON, [
        ("function", None, "first", "def first(a, b=1)", (6, 8)), ("class", None, "Box", "class Box(Base)", (11, 19)),
        ("method", "Box", "put", "def put(self, thing: str) -> None", (14, 16)),
        ("function", "Box.put", "inner", "def inner()", (15, 16)),
        ("method", "Box", "size", "async def size(self)", (18, 19))]),
    "JavaScript": (
        "// ünï\nexport default function main(x) {\n  return x;\n}\nclass A extends B {\n  static f(a) { return 1; }\n"
        "  g = () => 2;\n}\nexports.run = async (q) => q;\nconst k = function () {};\n", [
        ("function", None, "main", "export default function main(x)", (2, 4)),
        ("class", None, "A", "class A extends B", (5, 8)), ("method", "A", "f", "static f(a)", (6, 6)),
        ("method", "A", "g", "g = ()", (7, 7)), ("function", None, "run", "exports.run = async (q)", (9, 9)),
        ("function", None, "k", "const k = function ()", (10, 10))]),
    "TypeScript": (
        "export interface I<T> {\n  a: T;\n}\ntype N = number;\nenum E { A }\nabstract class C {\n"
        "  abstract f(): void;\n}\nnamespace S {\n  export function x(): void {}\n}\n", [
        ("type", None, "I", "export interface I<T>", (1, 3)), ("type", None, "N", "type N", (4, 4)),
        ("type", None, "E", "enum E", (5, 5)), ("class", None, "C", "abstract class C", (6, 8)),
        ("method", "C", "f", "abstract f(): void", (7, 7)),
        ("function", "S", "x", "export function x(): void", (10, 10))]),
    "TSX": ("export const App = (p: P) => <div>{p.x}</div>;\n", [
        ("function", None, "App", "export const App = (p: P)", (1, 1))]),
    "Go": (
        "package a\n\nfunc F(a int) int { return 1 }\n\ntype S[T any] struct {\n\ta T\n}\n\nfunc (s *S[T]) M() {}\n", [
        ("function", None, "F", "func F(a int) int", (3, 3)), ("type", None, "S", "type S[T any] struct", (5, 7)),
        ("method", "S", "M", "func (s *S[T]) M()", (9, 9))]),
    "Rust": (
        "pub struct S { a: u8 }\n\nimpl<T> Show for S<T> {\n    fn show(&self) -> u8 { 1 }\n}\n\n"
        "mod m {\n    pub fn k() {}\n}\ntrait T { fn f(&self); }\n", [
        ("type", None, "S", "pub struct S", (1, 1)), ("method", "S", "show", "fn show(&self) -> u8", (4, 4)),
        ("function", "m", "k", "pub fn k()", (8, 8)), ("type", None, "T", "trait T", (10, 10)),
        ("method", "T", "f", "fn f(&self);", (10, 10))]),
    "C": (
        "struct point { int x; };\n\nstatic char *name(int a) {\n  return 0;\n}\n\ntypedef struct { int b; } box;\n"
        "typedef int (*callback)(int);\n#define MAX(a, b) ((a) > (b))\n", [
        ("type", None, "point", "struct point", (1, 1)), ("function", None, "name", "static char *name(int a)", (3, 5)),
        ("type", None, "box", "typedef struct { int b; } box;", (7, 7)),
        ("type", None, "callback", "typedef int (*callback)(int);", (8, 8)),
        ("function", None, "MAX", "#define MAX(a, b)", (9, 9))]),
}  # fmt: skip


@pytest.mark.parametrize("language", SAMPLES)
def test_symbols(language: str) -> None:
    source, expected = SAMPLES[language]
    found = symbols_of(source, language, "f", 0)
    got = [(s.kind, s.parent, s.name, s.signature, s.line) for s in found]
    assert [(k, p, n, sig.split("  #")[0], line) for k, p, n, sig, line in got] == expected
    for s in found:
        code = source[slice(*s.char)]
        assert code == code.strip() and s.name in code
        assert code in "\n".join(source.split("\n")[s.line[0] - 1 : s.line[1]])
        assert s.line == (source.count("\n", 0, s.char[0]) + 1, source.count("\n", 0, s.char[1]) + 1)


FILES: dict[str, str | bytes] = {
    "demo/README.md": "# Demo\n\nWords here.\n",
    "demo/src/a.py": PYTHON,
    "demo/src/empty.py": "",
    "demo/src/windows.go": "package w\r\n\r\nfunc W() {}",
    "demo/.gitignore": "*.log\n/out/\n!keep.log\n",
    "demo/out/x.txt": "built\n",
    "demo/run.log": "log\n",
    "demo/keep.log": "kept\n",
    "demo/sub/.gitignore": "secret*\n!run.log\n",
    "demo/sub/secret.txt": "s\n",
    "demo/sub/run.log": "kept too\n",
    "demo/node_modules/m/index.js": "x\n",
    "demo/package-lock.json": "{}\n",
    "demo/lib.min.js": "x\n",
    "demo/big.js": "var a=1;" * 2000,
    "demo/api_pb2.py": "x = 1\n",
    "demo/gen.go": "// Code generated by x. DO NOT EDIT.\npackage g\n",
    "demo/pic.png": b"\x89PNG",
    "demo/blob": b"\0\1\2" * 50,
}
READ = [".gitignore", "keep.log", "src/a.py", "src/windows.go", "sub/.gitignore", "sub/run.log", "README.md"]
LEFT_OUT = [
    "1 left out: empty", "2 left out: binary", "2 left out: generated", "2 left out: minified", "1 left out: lock file",
    "1 left out: vendored", "3 left out: ignored by .gitignore",
]  # fmt: skip


def folder(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return root


@pytest.mark.parametrize("form", ["zip", "tar.gz", "tar", "folder"])
def test_same_reading_from_every_form(tmp_path: Path, form: str) -> None:
    if form == "folder":
        parsed = parse_repository(folder(tmp_path / "in", FILES), "demo")
    else:
        data = zip_bytes(FILES) if form == "zip" else tar_bytes(FILES, "w:gz" if form == "tar.gz" else "w")
        parsed = parse(parse_repository, tmp_path, f"demo.{form}", data)
    check(parsed)
    assert parsed.kind == "repository" and parsed.title == "demo"
    assert [f.path for f in parsed.files] == READ == [c.path for c in parsed.outline]
    assert sorted(parsed.warnings) == sorted(LEFT_OUT)
    by_path = {f.path: f for f in parsed.files}
    assert parsed.text[slice(*by_path["src/windows.go"].char)] == "package w\n\nfunc W() {}\n"
    assert (by_path["src/a.py"].language, by_path["src/a.py"].lines) == ("Python", PYTHON.count("\n"))
    put = next(s for s in parsed.symbols if s.name == "put")
    assert parsed.text[slice(*put.char)].startswith("def put") and put.line == (14, 16)
    assert segments(parsed) == parsed.outline


def test_code_blocks_end_at_symbols_or_sixty_lines() -> None:
    functions = [f"# about {n}\ndef f{n}():\n" + "    x = 1\n" * 20 + "\n" for n in range(4)]
    source = "".join(functions) + "".join(f"y{n} = {n}\n" + ("\n" if n % 25 == 24 else "") for n in range(150))
    symbols = symbols_of(source, "Python", "f")
    blocks = [source[a:b] for a, b, _ in file_cuts(source, "Python", symbols, Lines(source))]
    assert "".join(blocks) == source
    assert [b for b in blocks[:3]] == functions[:3] and blocks[3].startswith("# about 3")
    assert all(b.count("\n") <= 60 for b in blocks)


CODE = st.lists(
    st.sampled_from(["def f():", "    pass", "class A:", "", "# c", "x" * 7000, "    def g(self): 1", "ü😀"])
)


@settings(deadline=None)
@given(
    CODE.map(lambda lines: "\n".join([*lines, "end"]) + "\n"),
    st.sampled_from(["Python", "JavaScript", "C", None, "Text"]),
)
def test_any_code_is_tiled(source: str, language: str | None) -> None:
    symbols = symbols_of(source, language, "f")
    cuts = list(file_cuts(source, language, symbols, Lines(source)))
    assert [a for a, _, _ in cuts] == [0, *(b for _, b, _ in cuts[:-1])] and cuts[-1][1] == len(source)
    assert all(source[slice(*s.char)] and s.name in source[slice(*s.char)] for s in symbols)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    raw = tar_bytes({"d/caf\udce9.py": "x = 1\n", "d/b.py": "y = 2\n"}, "w")
    parsed = parse(parse_repository, tmp_path, "r.tar", raw)
    assert [f.path for f in parsed.files] == ["b.py", "caf\ufffd.py"]
    parsed.text.encode() and [f.path.encode() for f in parsed.files]


def test_links_inside_are_left_out(tmp_path: Path) -> None:
    data = tar_bytes({"d/a/b.py": "x = 1\n"}, links={"d/a/c.py": "../a/b.py"})
    parsed = parse(parse_repository, tmp_path, "r.tgz", data)
    assert [f.path for f in parsed.files] == ["a/b.py"] and parsed.warnings == ["1 left out: link"]


def test_links_in_a_folder_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret\n")
    root = folder(tmp_path / "in", {"a.py": "x = 1\n"})
    (root / "b.txt").symlink_to(tmp_path / "secret.txt")
    (root / "up").symlink_to(tmp_path)
    parsed = parse_repository(root, "r")
    assert parsed.text == "x = 1\n" and parsed.warnings == ["2 left out: link"]


def test_revision_of_a_git_archive(tmp_path: Path) -> None:
    root = folder(tmp_path / "in", {"a.py": "x = 1\n"})

    def run(*arguments: str) -> bytes:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, cwd=root, check=True, capture_output=True).stdout

    run("init", "-q")
    run("add", "a.py")
    run("commit", "-qm", "one")
    sha = run("rev-parse", "HEAD").decode().strip()
    for form in ("zip", "tar.gz"):
        assert (
            parse(parse_repository, tmp_path, f"a.{form}", run("archive", f"--format={form}", "HEAD")).revision == sha
        )
