"""HTML, EPUB and PDF against the text they were made from."""

from pathlib import Path

import pytest

from services.ingest.document import parse_document
from services.ingest.segments import segments, weight
from tests.ingest.makers import WORDS, check, epub_bytes, page, paragraphs, parse, pdf_bytes

CHAPTERS = {
    name: f"<h2>{name}</h2>" + "".join(f"<p>{p}</p>" for p in paragraphs(name)) for name in ("One", "Two", "Three")
}


def body_text(chapter: str) -> str:
    return "\n\n".join(p.strip() for p in paragraphs(chapter))


def test_html_text_is_the_words_of_its_paragraphs(tmp_path: Path) -> None:
    menu = "<nav>Home | About</nav><script>var x = 'no'</script><style>p{}</style>"
    parsed = parse(
        parse_document, tmp_path, "b.html", "<!doctype html>" + page("T &amp; U", menu + "".join(CHAPTERS.values()))
    )
    check(parsed)
    assert parsed.title == "T & U"
    assert parsed.text == "\n\n".join(f"{name}\n\n{body_text(name)}" for name in CHAPTERS) + "\n"
    assert [c.title for c in parsed.outline] == ["One", "Two", "Three"]
    assert [b.text.strip() for b in parsed.blocks if b.kind == "heading"] == ["One", "Two", "Three"]


def test_html_shapes(tmp_path: Path) -> None:
    body = (
        "<p>a<b>b</b> c&nbsp;d\n e<br>f</p><ul><li>one<li>two <i>x</i></ul><table><tr><td>1<td>2<tr><td>3<td>4</table>"
        "<pre><code>if x:\n    y\n</code></pre>loose<div>in<div>ner</div>tail</div><p hidden>no</p><img alt='A boat'>"
    )
    parsed = parse(parse_document, tmp_path, "b.html", page("t", body))
    check(parsed)
    assert parsed.text == (
        "ab c d e\nf\n\n- one\n- two x\n\n1 | 2\n3 | 4\n\nif x:\n    y\n\nloose\n\nin\n\nner\n\ntail\n\nA boat\n"
    )
    assert [b.text.strip() for b in parsed.blocks if b.kind == "code"] == ["if x:\n    y"]


def test_html_as_declared(tmp_path: Path) -> None:
    source = '<html><head><meta charset="iso-8859-1"></head><body><p>“Größe”</p></body></html>'
    assert parse(parse_document, tmp_path, "b.htm", source.encode("cp1252")).text == "“Größe”\n"


@pytest.mark.parametrize("toc", ["nav", "ncx", "none"])
def test_epub_reads_its_spine_and_contents(tmp_path: Path, toc: str) -> None:
    parsed = parse(parse_document, tmp_path, "b.epub", epub_bytes(CHAPTERS, toc))
    check(parsed)
    assert parsed.title == "The Keeper"
    assert parsed.text == "\n\n".join(f"{name}\n\n{body_text(name)}" for name in CHAPTERS) + "\n"
    assert [(c.title, c.level) for c in parsed.outline] == [("One", 1), ("Two", 1), ("Three", 1)]
    assert all(parsed.text[c.char[0] :].startswith(c.title) for c in parsed.outline)


def test_epub_chapters_by_anchor_and_half_title(tmp_path: Path) -> None:
    """Chapters of one file, below a half title, with a title page and a colophon around them."""
    inner = "".join(f'<section id="s{n}">{body}</section>' for n, body in enumerate(CHAPTERS.values()))
    chapters = {"Titlepage": "<h1>The Keeper</h1><p>By A. B.</p>", "The Keeper": inner, "Colophon": "<p>Made here.</p>"}
    rows = "".join(f'<li><a href="c1.xhtml#s{n}">{name}</a></li>' for n, name in enumerate(CHAPTERS))
    nav = (
        '<nav><ol><li><a href="c0.xhtml">Titlepage</a></li><li><a href="c1.xhtml">The Keeper</a>'
        f'<ol>{rows}</ol></li><li><a href="c2.xhtml">Colophon</a></li></ol></nav>'
    )
    data = epub_bytes(chapters, "nav", **{"OPS/nav.xhtml": page("toc", nav)})
    parsed = parse(parse_document, tmp_path, "b.epub", data)
    check(parsed)
    assert [c.title for c in parsed.outline] == ["Front matter", "One", "Two", "Three", "Back matter"]


def lines_of(text: str, width: int, x: float = 50, indent: float = 12) -> list[tuple[float, str]]:
    """A paragraph set in lines, its first one indented."""
    out, line = [], ""
    for word in text.split():
        if len(line) + len(word) > width:
            out.append(line)
            line = ""
        line += (" " if line else "") + word
    return [(x + (0 if n else indent), words) for n, words in enumerate([*out, line])]


def set_pages(chapters: list[str], paras: int) -> tuple[list[list[tuple[float, float, str]]], list[str]]:
    """Pages of 30 lines with running head and page number, and the paragraphs set in them."""
    pages: list[list[tuple[float, float, str]]] = []
    texts = []
    for name in chapters:
        rows: list[tuple[float, str]] = [(180, name)]
        for n in range(paras):
            texts.append(f"{name} {n}: {WORDS.strip()} {WORDS.strip()}")
            rows += lines_of(texts[-1], 52)
        for top in range(0, len(rows), 30):
            body = [
                (x, 540 - 15 * n - (10 if n and not top else 0), t) for n, (x, t) in enumerate(rows[top : top + 30])
            ]
            pages.append([(150, 580, "THE KEEPER"), *body, (195, 30, str(len(pages) + 1))])
    return pages, texts


@pytest.mark.parametrize("bookmarked", [True, False])
def test_pdf_paragraphs_pages_and_chapters(tmp_path: Path, bookmarked: bool) -> None:
    names = ["Chapter One", "Chapter Two", "Chapter Three"]
    pages, texts = set_pages(names, 12)
    first = [next(n for n, p in enumerate(pages) if p[1][2] == name) for name in names]
    toc = list(zip(names, first, strict=True)) if bookmarked else []
    parsed = parse(parse_document, tmp_path, "b.pdf", pdf_bytes(pages, toc))
    check(parsed)
    got = [" ".join(b.text.split()) for b in parsed.blocks if b.kind == "paragraph"]
    assert got == texts
    assert [(c.title, c.page) for c in parsed.outline] == [(n, f + 1) for n, f in zip(names, first, strict=True)]
    for block in parsed.blocks:
        assert any(t in block.text for _, _, t in pages[(block.page or 0) - 1]), "the block begins on its page"


def test_pdf_hyphens(tmp_path: Path) -> None:
    rows = ["The mountain and the after-dinner talk went on, and the", "keeper of the moun-",
            "tain spoke of the after-",
            "dinner boats and of the har-", "bour where the harbour seals sleep."]  # fmt: skip
    parsed = parse(parse_document, tmp_path, "b.pdf", pdf_bytes([[(50, 500 - 15 * n, r) for n, r in enumerate(rows)]]))
    assert "keeper of the mountain spoke of the after-dinner boats and of the harbour where" in parsed.text


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    assert parse(parse_document, tmp_path, "book.txt", epub_bytes(CHAPTERS)).title == "The Keeper"
    assert parse(parse_document, tmp_path, "b.epub", pdf_bytes(set_pages(["Chapter One"], 3)[0])).blocks[0].page == 1
    assert "<p>" not in parse(parse_document, tmp_path, "x.txt", "<!DOCTYPE html><p>hello</p>").text
    assert parse(parse_document, tmp_path, "x.html", "just words, no markup\n").text == "just words, no markup\n"


def test_segments_tile_and_are_bounded(tmp_path: Path) -> None:
    long = "\n\n".join(paragraphs("Long", 500))
    text = f"PART ONE\n\nChapter 1\n\n{long}\n\nChapter 2\n\n{WORDS * 20}\n\nPART TWO\n\nChapter 3\n\n{WORDS * 20}\n"
    parsed = parse(parse_document, tmp_path, "b.txt", text)
    parts = segments(parsed)
    assert [p.char[0] for p in parts] == [0, *(p.char[1] for p in parts[:-1])] and parts[-1].char[1] == len(text)
    assert all(weight(parsed.text[slice(*p.char)]) <= 8_400 for p in parts)
    assert [p.title for p in parts] == [*(f"Chapter 1 (part {n})" for n in (1, 2, 3, 4)), "Chapter 2", "Chapter 3"]
    assert all(p.line == (text.count("\n", 0, p.char[0]) + 1, text.count("\n", 0, p.char[1] - 1) + 1) for p in parts)
