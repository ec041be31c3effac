"""Sources: text by offsets, symbols, pages of lists, deletion."""

from pathlib import Path
from types import SimpleNamespace as Row
from typing import Any

import pytest
import sqlalchemy as sa

from services.errors import InvalidInput, NotFound
from services.library import deletion, jobs, search, sessions, sources, summaries
from services.library.db import Database
from services.library.tables import Discarded, IdempotentRequest, Job, Quote, Source, Summary, Turn

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


def test_deleting_takes_everything_that_holds_its_words(database: Database) -> None:
    source_id, other = stored(database), stored(database)
    with database.write() as db:
        session = sessions.create(db, "default", [source_id, other])
        kept = sessions.create(db, "default", [other])
        turns = [sessions.add_turn(db, "default", one.id, "?", None) for one in (session, kept)]
        made = [jobs.create(db, "default", "answer", turn.id) for turn in turns]
        made.append(jobs.create(db, "default", "ingest", source_id))
        sessions.complete(db, "default", turns[0].id, [{"text": "x", "source_id": source_id, "match": "exact"}])
        summaries.store(db, "default", source_id, None, "t", "x", [], "lexical")
        sources.reading(db, "default", source_id)
        for key, job in zip("abc", made, strict=True):
            db.add(IdempotentRequest(tenant="default", key=key, request_hash="", location=f"/v1/jobs/{job.id}"))
        newer = sources.create(db, "default", "document", "newer", previous=source_id)
    with database.write() as db:
        gone = deletion.delete_source(db, "default", source_id)
    assert set(gone.jobs) == set(gone.running) == {made[0].id, made[2].id} and gone.blob is None
    with database.read() as db:
        count = lambda table: db.scalar(sa.select(sa.func.count()).select_from(table))  # noqa: E731
        assert {table.__name__: count(table) for table in (Source, Turn, Quote, Job, Summary, IdempotentRequest)} == {
            "Source": 2, "Turn": 1, "Quote": 0, "Job": 1, "Summary": 0, "IdempotentRequest": 1,
        }  # fmt: skip
        assert sessions.get(db, "default", kept.id).sources and sources.get(db, "default", newer.id).previous is None
        assert {row.engine_session_id for row in db.scalars(sa.select(Discarded))} == {f"src-{source_id}", session.id}


def test_the_bytes_stay_while_another_source_uses_them(database: Database) -> None:
    first, second = stored(database), stored(database, tenant="other")
    with database.write() as db:
        assert deletion.delete_source(db, "default", first).blob is None
        assert deletion.delete_source(db, "other", second).blob == "a" * 64


def test_what_is_deleted_leaves_no_letter_in_the_database_file(database: Database) -> None:
    if not database.sqlite:
        pytest.skip("PostgreSQL's own vacuum sees to that")
    with database.write() as db:
        source_id = sources.create(db, "default", "document", "quokkaberry").id
    with database.write() as db:
        deletion.delete_source(db, "default", source_id)
    database.checkpoint()
    folder = Path(str(database.url.database)).parent
    assert not [path for path in folder.iterdir() if b"quokkaberry" in path.read_bytes()]


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
