"""What was read before stays as it was when a source grows: segments of a text, the order of a repository's files."""

from pathlib import Path

import pytest

from services.ingest.child import parse_in_child
from services.ingest.document import parse_document
from services.ingest.order import arranged
from services.ingest.repository import parse_repository
from services.ingest.segments import segments, weight
from services.ingest.types import LIMITS, Known, Parsed
from tests.ingest.makers import zip_bytes

WORDS = "The keeper lit the lamp and wrote the names of the ships that passed into a green ledger. "


def paragraphs(first: int, last: int) -> str:
    return "".join(f"Note {n}. {WORDS * 3}\n\n" for n in range(first, last))


def chapters(count: int, notes: int = 40) -> str:
    return "".join(f"CHAPTER {n}\n\n{paragraphs(0, notes)}" for n in range(1, count + 1))


def markdown(sections: int, notes: int = 30) -> str:
    body = "".join(f"## Section {n}\n\n{paragraphs(0, notes)}" for n in range(1, sections + 1))
    return f"# One\n\n{paragraphs(0, 9)}# Two\n\n{paragraphs(0, 9)}# Three\n\n{body}"


def read(folder: Path, name: str, text: str) -> tuple[Parsed, list[str]]:
    (folder / name).write_text(text)
    parsed = parse_document(folder / name, name)
    return parsed, [parsed.text[slice(*s.char)] for s in segments(parsed)]


GROWN = {
    "a chapter more": ("b.txt", chapters(4), chapters(5)),
    "the last chapter grew": ("b.txt", chapters(4), chapters(4) + paragraphs(40, 60)),
    "the last chapter grew long": ("b.txt", chapters(4, 300), chapters(4, 300) + paragraphs(300, 700)),
    "no headings": ("b.txt", paragraphs(0, 400), paragraphs(0, 500)),
    "no headings, a little": ("b.txt", paragraphs(0, 400), paragraphs(0, 401)),
    "sections, a little": ("b.md", markdown(5), markdown(5) + paragraphs(30, 31)),
    "sections, one more": ("b.md", markdown(9), markdown(10)),
    "sections that become too long for one segment": ("b.md", markdown(5), markdown(9)),
}


@pytest.mark.parametrize("name", GROWN)
def test_text_that_is_added_changes_no_segment_but_the_last(tmp_path: Path, name: str) -> None:
    file, before, after = GROWN[name]
    parsed, old = read(tmp_path, file, before)
    grown, new = read(tmp_path, file, after)
    assert len(old) > 1 and new[: len(old) - 1] == old[:-1]
    assert new[len(old) - 1].startswith(old[-1][:2000])  # the last one begins where it began
    assert "".join(old) == parsed.text and "".join(new) == grown.text == after
    assert all(weight(segment) <= 8_400 for segment in new)


FILES = {
    "README.md": "# Demo\n", "CHANGELOG.md": "# 1.0\n", "pyproject.toml": "[project]\n", ".github/ci.yml": "on: push\n",
    "docs/guide.md": "# Guide\n", "src/a.py": "a = 1\n", "src/version.py": "v = 1\n", "tests/test_a.py": "t = 1\n",
    "requirements.txt": "x==1\n",
}  # fmt: skip
STEADY_FIRST = ["src/a.py", "tests/test_a.py", "docs/guide.md", "README.md", "CHANGELOG.md", "pyproject.toml",
                "src/version.py", "requirements.txt", ".github/ci.yml"]  # fmt: skip


def parsed_paths(folder: Path, files: dict[str, str], known: Known | None = None) -> list[str]:
    (folder / "demo.zip").write_bytes(zip_bytes({f"demo/{name}": text for name, text in files.items()}))
    parsed = parse_in_child(parse_repository, folder / "demo.zip", "demo.zip", LIMITS, known or Known())
    return [file.path for file in parsed.files]


def test_an_archive_is_read_from_the_steady_kinds_to_the_volatile(tmp_path: Path) -> None:
    assert parsed_paths(tmp_path, FILES) == STEADY_FIRST


def test_files_that_changed_often_come_last_and_one_commit_more_moves_nothing(tmp_path: Path) -> None:
    changes = (("src/a.py", 9), ("README.md", 1), ("tests/test_a.py", 1))
    wanted = [path for path in STEADY_FIRST if path != "src/a.py"]
    assert parsed_paths(tmp_path, FILES, Known(changes)) == [*wanted, "src/a.py"]
    once_more = (("src/a.py", 10), ("README.md", 1), ("tests/test_a.py", 1))
    assert parsed_paths(tmp_path, FILES, Known(once_more)) == [*wanted, "src/a.py"]


def test_a_new_version_begins_with_what_did_not_change() -> None:
    """Files of the version before stay in front, in its order, up to the first that differs; new ones come behind."""
    before = (("z.py", "1"), ("b.py", "2"), ("m.py", "3"), ("c.py", "4"))
    now = {"b.py": "2", "z.py": "1", "m.py": "changed", "c.py": "4", "a_new.py": "5"}
    assert arranged(now, Known((), before)) == ["z.py", "b.py", "a_new.py", "c.py", "m.py"]
