"""Full-text search (BM25) over the blocks of sources: one small tantivy index a source, on disk, rebuilt when missing.

The index is a cache of the blocks table: deleting `{data_dir}/index` loses nothing.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import tantivy
from sqlalchemy.orm import Session

from services.library import sources
from services.library.tables import Block

FORMAT = "1"  # part of the folder's name: another way of indexing is another folder
HEAP_BYTES = 15_000_000
LONGEST_WORD = 60
WORDS = re.compile(r"\w+")
PARTS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0e7f]+")  # kana, Han, Thai


@dataclass(frozen=True)
class Hit:
    source_id: str
    block: Block
    score: float


def search(db: Session, index_dir: Path, tenant: str, source_ids: Sequence[str], query: str, limit: int) -> list[Hit]:
    """The blocks that share most with the query, best first. Another tenant's source is NotFound."""
    found: list[Hit] = []
    for source_id in dict.fromkeys(source_ids):
        sources.get(db, tenant, source_id)
        index = ensure(index_dir, source_id, lambda wanted=source_id: sources.blocks(db, tenant, wanted))  # type: ignore[misc]
        scores = dict(_ask(index, query, limit))
        rows = sources.blocks(db, tenant, source_id, only=list(scores))
        found += [Hit(source_id, row, scores[row.ordinal]) for row in rows]
    return sorted(found, key=lambda hit: -hit.score)[:limit]


def ensure(index_dir: Path, source_id: str, load: Callable[[], Sequence[Block]]) -> Path:
    """The folder of a source's index; built from its blocks when it is not there."""
    folder = index_dir / f"{source_id}-{FORMAT}"
    if not folder.exists():
        _build(folder, load())
    return folder


def forget(index_dir: Path, source_id: str) -> None:
    """When a source was deleted or parsed again."""
    for folder in index_dir.glob(f"{source_id}-*"):
        shutil.rmtree(folder, ignore_errors=True)
    _open.cache_clear()


def _build(folder: Path, rows: Sequence[Block]) -> None:
    """Beside, then moved in place at once: whoever looks finds a whole index or none."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".building-"))
    index = _with_tokenizer(tantivy.Index(_schema(), path=str(beside)))
    writer = index.writer(HEAP_BYTES, 1)
    for row in rows:
        if row.text.strip():
            writer.add_document(tantivy.Document(words=" ".join(spread(row.text)), row=row.ordinal))
    writer.commit()
    writer.wait_merging_threads()
    try:
        beside.rename(folder)
    except OSError:  # somebody else was first
        shutil.rmtree(beside, ignore_errors=True)


@lru_cache(maxsize=1)
def _schema() -> tantivy.Schema:
    fields = tantivy.SchemaBuilder()
    fields.add_text_field("words", tokenizer_name="shiori", index_option="freq")
    fields.add_unsigned_field("row", stored=True)
    return fields.build()


@lru_cache(maxsize=1)
def _analyser() -> tantivy.TextAnalyzer:
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace())
    for step in (
        tantivy.Filter.remove_long(LONGEST_WORD),
        tantivy.Filter.lowercase(),
        tantivy.Filter.ascii_fold(),
        tantivy.Filter.stopword("english"),
        tantivy.Filter.stemmer("english"),
    ):
        builder = builder.filter(step)
    return builder.build()


def _with_tokenizer(index: tantivy.Index) -> tantivy.Index:
    index.register_tokenizer("shiori", _analyser())
    return index


@lru_cache(maxsize=64)
def _open(folder: Path) -> tantivy.Index:
    return _with_tokenizer(tantivy.Index.open(str(folder)))


def _ask(folder: Path, query: str, limit: int) -> list[tuple[int, float]]:
    """(ordinal of the block, score), best first."""
    terms = dict.fromkeys(_analyser().analyze(" ".join(spread(query))))
    if not terms:
        return []
    schema, searcher = _schema(), _open(folder).searcher()
    wanted = [(tantivy.Occur.Should, tantivy.Query.term_query(schema, "words", term, "freq")) for term in terms]
    hits = searcher.search(tantivy.Query.boolean_query(wanted), limit).hits
    return [(searcher.doc(address)["row"][0], score) for score, address in hits]


def spread(text: str) -> Iterator[str]:
    """Words; parts of identifiers beside the whole; characters and pairs of them where a script writes no spaces."""
    for match in WORDS.finditer(text):
        word = match[0]
        if UNSPACED.search(word):
            yield from word
            yield from (word[n : n + 2] for n in range(len(word) - 1))
            continue
        yield word
        parts = PARTS.findall(word)
        if len(parts) > 1:
            yield from parts
