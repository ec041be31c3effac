"""Plain text and Markdown: offsets, encodings, chapters."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest.chapters import value_of
from services.ingest.document import parse_document
from services.ingest.draft import Draft
from services.ingest.finish import finish
from services.ingest.plain import read_markdown, read_plain
from services.ingest.types import Parsed
from tests.ingest.makers import check, paragraphs, parse

LINES = st.sampled_from(
    ["", " ", "Chapter I", "CHAPTER 12. A Title", "## Two", "# One", "```", "---", "word " * 40, "I", "2", "II.",
     "Ünïcode — “quotes” 漢字。漢字。", "x" * 3000, "A sentence. " * 200, "\t", "\x0c", "Epilogue", "😀" * 900,
     "\u2028", "*** START OF THE PROJECT GUTENBERG EBOOK", "*** END OF THE PROJECT GUTENBERG EBOOK", "PART ONE"]
)  # fmt: skip
TEXTS = st.one_of(st.lists(LINES, max_size=40).map("\n".join), st.text(max_size=400))


def titles(parsed: Parsed, level: int = 0) -> list[str]:
    return [c.title for c in parsed.outline if level in (0, c.level)]


@settings(deadline=None)
@given(TEXTS, st.booleans())
def test_blocks_and_outline_tile_any_text(text: str, markdown: bool) -> None:
    text = text.replace("\r", "\n")
    draft: Draft = (read_markdown if markdown else read_plain)(text, "x.txt")
    parsed = finish(draft)
    if text:
        check(parsed)
    assert finish((read_markdown if markdown else read_plain)(text, "x.txt")) == parsed
    assert all(len(b.text) <= 1600 or not b.text[1500:].strip() for b in parsed.blocks)


def chapters(heads: list[str], gap: str = "\n\n") -> str:
    return gap.join(head + "\n\n" + "\n\n".join(paragraphs(head)) for head in heads) + "\n"


@pytest.mark.parametrize(
    "heads",
    [
        ["Chapter I", "Chapter II", "Chapter III"],
        ["CHAPTER 1. The Harbour", "CHAPTER 2. The Book", "CHAPTER 3. The End"],
        ["Letter 1", "Letter 2", "Chapter 1", "Chapter 2", "Epilogue"],
        ["I", "II", "III", "IV"],
        ["I. The Harbour", "II. The Book", "III. The Storm"],
        ["1.  The Cyclone", "2.  The Council", "3.  The Road"],
        ["# The Harbour", "# The Book"],
        ["Chapter the First", "Chapter the Second"],
        ["THE HARBOUR", "THE BOOK", "THE STORM"],
    ],
)
def test_chapter_headings_of_many_looks(tmp_path: Path, heads: list[str]) -> None:
    parsed = parse(parse_document, tmp_path, "book.txt", chapters(heads))
    check(parsed)
    assert titles(parsed) == [" ".join(h.strip("# ").split()) for h in heads]
    for chapter, head in zip(parsed.outline, heads, strict=True):
        assert parsed.text[slice(*chapter.char)].startswith(head + "\n\n" + head + " 0:")


def test_table_of_contents_is_no_chapter(tmp_path: Path) -> None:
    heads = ["Chapter 1. The Harbour", "Chapter 2. The Book", "Chapter 3. The Storm"]
    for contents in ("\n".join(heads), "\n\n".join(heads)):
        text = f"My Title\n\nContents\n\n{contents}\n\n{chapters(heads)}"
        assert titles(parse(parse_document, tmp_path, "b.txt", text)) == heads


def test_parts_hold_chapters(tmp_path: Path) -> None:
    text = chapters(["PART ONE", "Chapter 1", "Chapter 2", "PART TWO", "Chapter 3", "Chapter 4"])
    parsed = parse(parse_document, tmp_path, "b.txt", text)
    assert titles(parsed, 1) == ["PART ONE", "PART TWO"]
    assert titles(parsed, 2) == ["Chapter 1", "Chapter 2", "Chapter 3", "Chapter 4"]


def test_gutenberg_header_and_footer_stay_out_of_the_chapters(tmp_path: Path) -> None:
    licence = "Section 1. General Terms\n\n" + "Licence words here. " * 100
    text = (
        "The Project Gutenberg eBook\n\nTitle: The Keeper\n\n" + "Header words. " * 80 + "\n\n"
        f"*** START OF THE PROJECT GUTENBERG EBOOK THE KEEPER ***\n\n{chapters(['Chapter I', 'Chapter II'])}\n\n"
        f"*** END OF THE PROJECT GUTENBERG EBOOK THE KEEPER ***\n\n{licence}\n\nChapter III\n\nnot one\n"
    )
    parsed = parse(parse_document, tmp_path, "pg1.txt", text)
    check(parsed)
    assert parsed.title == "The Keeper"
    assert titles(parsed) == ["Front matter", "Chapter I", "Chapter II", "Back matter"]


def test_short_front_joins_the_first_chapter(tmp_path: Path) -> None:
    parsed = parse(parse_document, tmp_path, "b.txt", "The Keeper\n\nby Nobody\n\n" + chapters(["I", "II"]))
    assert titles(parsed) == ["I", "II"]
    assert parsed.outline[0].char[0] == 0 and parsed.title == "The Keeper"


def test_a_title_may_stand_below_its_number(tmp_path: Path) -> None:
    parsed = parse(parse_document, tmp_path, "b.txt", chapters(["CHAPTER I.\nThe Harbour", "CHAPTER II.\nThe Book"]))
    assert titles(parsed) == ["CHAPTER I: The Harbour", "CHAPTER II: The Book"]


def test_text_without_headings_gets_parts(tmp_path: Path) -> None:
    parsed = parse(parse_document, tmp_path, "b.txt", "\n\n".join(paragraphs("Note", 400)))
    check(parsed)
    assert titles(parsed)[:2] == ["Part 1", "Part 2"]
    assert all(parsed.text[c.char[0] - 2 : c.char[0]] == "\n\n" for c in parsed.outline[1:])
    assert max(c.char[1] - c.char[0] for c in parsed.outline) < 40_000


def test_sentences_are_not_headings(tmp_path: Path) -> None:
    text = "\n\n".join([*paragraphs("A"), "Chapter houses are built of stone, and", "I", "Part of me agreed,"])
    assert titles(parse(parse_document, tmp_path, "b.txt", text)) == ["Part 1"]


def test_markdown_keeps_its_source_and_knows_code(tmp_path: Path) -> None:
    source = "# Doc\n\nIntro *here*.\n\n## First `x`\n\n```py\n# no heading\n```\n\n"
    source += "Second\n------\n\ntext\n\n### Deep [l](u)\n\nmore\n"
    parsed = parse(parse_document, tmp_path, "d.md", source)
    check(parsed)
    assert parsed.text == source and parsed.title == "Doc"
    assert [(c.title, c.level) for c in parsed.outline] == [("First x", 1), ("Second", 1), ("Deep l", 2)]
    assert [b.text for b in parsed.blocks if b.kind == "code"] == ["```py\n# no heading\n```\n\n"]
    assert [b.line for b in parsed.blocks if b.kind == "heading"] == [(1, 2), (5, 6), (11, 13), (16, 17)]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1"]
)
def test_encodings(tmp_path: Path, encoding: str) -> None:
    text = "Die Bücher lagen auf dem Tisch, und der Wärter schrieb über die Größe der Schiffe.\r\n\r\n" * 30
    parsed = parse(parse_document, tmp_path, "b.txt", text.encode(encoding))
    assert parsed.text == text.replace("\r\n", "\n")


def test_russian_in_its_old_encoding(tmp_path: Path) -> None:
    text = "Смотритель маяка считал лодки и записывал их имена в длинную книгу. Море было тихим.\n" * 20
    assert parse(parse_document, tmp_path, "b.txt", text.encode("cp1251")).text == text


def test_roman_numerals() -> None:
    assert [value_of(n) for n in ("I", "iv", "IX", "XIV", "XL", "XC", "CXLIX", "12")] == [1, 4, 9, 14, 40, 90, 149, 12]
