"""Sources: text by offsets, symbols, pages of lists, deletion."""

from types import SimpleNamespace as Row
from typing import Any

import pytest
import sqlalchemy as sa

from services.errors import InvalidInput, NotFound
from services.library import search, sessions, sources, summaries
from services.library.db import Database
from services.library.tables import Block, Discarded

PARAGRAPHS = [
    "It was a dark night.\n\n",
    "The wolf ran to Ötzi's hut.\n\n",
    "吾輩は猫である。\n",
    "parseHttpRequest(x)\n",
]


def parsed(paragraphs: list[str] = PARAGRAPHS) -> Any:
    blocks, at = [], 0
    for n, text in enumerate(paragraphs):
        where = {"char": (at, at + len(text)), "line": (n + 1, n + 1), "page": None, "path": "a.py", "chapter": 0}
        blocks.append(Row(ordinal=n, kind="paragraph", text=text, **where))
        at += len(text)
    symbol = {"kind": "function", "path": "a.py", "line": (1, 2), "char": (0, 5), "signature": "", "parent": None}
    symbols = [Row(name=name, **symbol) for name in ("parse_all", "Parse", "reader", "50%_off")]
    return Row(title="Night", text="".join(paragraphs), blocks=blocks, symbols=symbols, revision=None)


def stored(database: Database, tenant: str = "default", kind: str = "document") -> str:
    with database.write() as db:
        source = sources.create(db, tenant, kind, "night.txt", sha256="a" * 64)
        sources.store_parsed(db, tenant, source.id, parsed(), [], [{"path": "a.py", "char": [0, 20]}], [])
        return source.id


def test_any_range_of_the_text_comes_back_letter_for_letter(database: Database) -> None:
    source_id, whole = stored(database), "".join(PARAGRAPHS)
    with database.read() as db:
        for start in range(0, len(whole), 7):
            for stop in range(start, len(whole) + 1, 5):
                assert sources.text(db, "default", source_id, start, stop)[0] == whole[start:stop]
        assert sources.text(db, "default", source_id, 3) == (whole[3:], 3, len(whole))
        with pytest.raises(InvalidInput):
            sources.text(db, "default", source_id, 9, 3)


def test_storing_twice_leaves_one_copy(database: Database) -> None:
    source_id = stored(database)
    with database.write() as db:
        sources.store_parsed(db, "default", source_id, parsed(), [], [], [])
    with database.read() as db:
        assert len(sources.blocks(db, "default", source_id)) == len(PARAGRAPHS)
        assert len(sources.symbols(db, "default", source_id)) == 4


def test_symbols_are_found_by_a_part_of_the_name_exact_ones_first(database: Database) -> None:
    source_id = stored(database)
    with database.read() as db:
        assert [s.name for s in sources.symbols(db, "default", source_id, "parse")] == ["Parse", "parse_all"]
        assert [s.name for s in sources.symbols(db, "default", source_id, "%_")] == ["50%_off"]


def test_pages_of_a_list_neither_repeat_nor_skip(database: Database) -> None:
    made = {stored(database) for _ in range(5)}
    seen, after = [], None
    with database.read() as db:
        while True:
            page = sources.list_page(db, "default", "document", 2, after)
            seen += [source.id for source in page.data]
            after = page.next_cursor
            if not page.has_more:
                break
        with pytest.raises(InvalidInput):
            sources.list_page(db, "default", "document", 2, "doc_unknown")
    assert len(seen) == 5 and set(seen) == made


def test_deleting_takes_everything_but_the_conversation(database: Database) -> None:
    source_id = stored(database)
    with database.write() as db:
        session = sessions.create(db, "default", [source_id])
        summaries.store(db, "default", source_id, None, "t", "x", [], "lexical")
        sources.reading(db, "default", source_id)
    with database.write() as db:
        assert sources.delete(db, "default", source_id) == "a" * 64
    with database.read() as db:
        assert db.scalar(sa.select(sa.func.count()).select_from(Block)) == 0
        assert sessions.get(db, "default", session.id).sources == []
        assert {row.engine_session_id for row in db.scalars(sa.select(Discarded))} == {f"src-{source_id}", session.id}


def test_the_bytes_stay_while_another_source_uses_them(database: Database) -> None:
    first, second = stored(database), stored(database, tenant="other")
    with database.write() as db:
        assert sources.delete(db, "default", first) is None
        assert sources.delete(db, "other", second) == "a" * 64


def test_a_summary_replaces_the_one_before(database: Database) -> None:
    source_id = stored(database)
    with database.write() as db:
        for text in ("old", "new"):
            for chapter in (None, 0):
                summaries.store(db, "default", source_id, chapter, "t", text, [{"text": text}], "model")
        assert [(row.chapter, row.text) for row in summaries.listed(db, "default", source_id)] == [
            (None, "new"),
            (0, "new"),
        ]


@pytest.mark.parametrize(
    ("query", "found"),
    [("huts", 1), ("otzi", 1), ("猫", 2), ("http request", 3), ("dark AND", 0), ('"(', None)],
)
def test_search_finds_words_parts_of_identifiers_and_unspaced_scripts(
    database: Database, tmp_path: Any, query: str, found: int | None
) -> None:
    source_id = stored(database)
    with database.read() as db:
        hits = search.search(db, tmp_path / "index", "default", [source_id], query, 3)
        assert [hit.block.ordinal for hit in hits][:1] == ([] if found is None else [found])
        with pytest.raises(NotFound):
            search.search(db, tmp_path / "index", "other", [source_id], query, 3)
