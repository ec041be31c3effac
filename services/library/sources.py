"""Documents and repositories: their rows, text, files and symbols. The tenant comes first, everywhere."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.orm import Session, defer

from services.errors import InvalidInput, NotFound, NotReady
from services.library.ids import new_id
from services.library.pages import Page, newest_first
from services.library.tables import Block, Discarded, Reading, Source, Symbol

PREFIX = {"document": "doc", "repository": "rep"}
LONGEST_TEXT = 1_000_000
ROWS_AT_ONCE = 2_000


class ParsedSource(Protocol):
    """What ingest hands over; services.ingest.types.Parsed fits."""

    @property
    def title(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def blocks(self) -> Sequence[Any]: ...
    @property
    def symbols(self) -> Sequence[Any]: ...
    @property
    def revision(self) -> str | None: ...


def create(db: Session, tenant: str, kind: str, title: str, **fields: Any) -> Source:
    source = Source(id=new_id(PREFIX[kind]), tenant=tenant, kind=kind, title=title, outline=[], files=[], **fields)
    db.add(source)
    db.flush()
    return source


def get(db: Session, tenant: str, source_id: str, kind: str | None = None) -> Source:
    query = sa.select(Source).where(Source.tenant == tenant, Source.id == source_id)
    source = db.scalar(query.where(Source.kind == kind) if kind else query)
    if source is None:
        raise NotFound(f"There is no {kind or 'source'} {source_id}.")
    return source


def get_many(db: Session, tenant: str, source_ids: Sequence[str]) -> list[Source]:
    """In the order asked for; one unknown id is NotFound."""
    return [get(db, tenant, source_id) for source_id in source_ids]


def ready(db: Session, tenant: str, source_id: str, kind: str | None = None) -> Source:
    """One that has been read; NotReady otherwise."""
    source = get(db, tenant, source_id, kind)
    if source.status != "ready":
        raise NotReady(f"{source.title} is {source.status}: it has not been read.", source_id=source.id)
    return source


def list_page(db: Session, tenant: str, kind: str, limit: int, after: str | None) -> Page[Source]:
    query = sa.select(Source).where(Source.tenant == tenant, Source.kind == kind).options(defer(Source.files))
    return newest_first(db, Source, query, limit, after)


def store_parsed(
    db: Session,
    tenant: str,
    source_id: str,
    parsed: ParsedSource,
    outline: list[Any],
    files: list[Any],
    warnings: list[Any],
) -> None:
    """Blocks, symbols and outline in the caller's transaction. Running it twice leaves one copy."""
    source = get(db, tenant, source_id)
    for table in (Block, Symbol):
        db.execute(sa.delete(table).where(table.source_id == source.id))
    _insert(db, Block, (_block_row(source.id, block) for block in parsed.blocks))
    _insert(db, Symbol, (_symbol_row(source.id, n, symbol) for n, symbol in enumerate(parsed.symbols)))
    source.title = parsed.title or source.title
    source.revision = parsed.revision or source.revision
    source.characters = len(parsed.text)
    source.outline, source.files, source.warnings = outline, files, warnings


def _insert(db: Session, table: type[Block] | type[Symbol], rows: Iterable[dict[str, Any]]) -> None:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == ROWS_AT_ONCE:
            db.execute(sa.insert(table), batch)
            batch = []
    if batch:
        db.execute(sa.insert(table), batch)


def _block_row(source_id: str, block: Any) -> dict[str, Any]:
    return {
        "source_id": source_id,
        **{name: getattr(block, name) for name in ("ordinal", "kind", "text", "page", "path", "chapter")},
        **_span("char", block.char),
        **_span("line", block.line),
    }


def _symbol_row(source_id: str, ordinal: int, symbol: Any) -> dict[str, Any]:
    return {
        "source_id": source_id,
        "ordinal": ordinal,
        **{name: getattr(symbol, name) for name in ("name", "kind", "path", "signature", "parent")},
        **_span("char", symbol.char),
        **_span("line", symbol.line),
    }


def _span(name: str, span: Sequence[int]) -> dict[str, int]:
    return {f"{name}_start": span[0], f"{name}_end": span[1]}


def blocks(db: Session, tenant: str, source_id: str, only: Sequence[int] | None = None) -> list[Block]:
    """All blocks in order, or only those with the given ordinals."""
    get(db, tenant, source_id)
    query = sa.select(Block).where(Block.source_id == source_id).order_by(Block.ordinal)
    return list(db.scalars(query if only is None else query.where(Block.ordinal.in_(only))))


def block_rows(db: Session, tenant: str, source_id: str) -> Sequence[Any]:
    """All blocks in order as plain rows with the names of `Block`: a tenth of the time that objects take."""
    get(db, tenant, source_id)
    return db.execute(
        sa.select(*sa.inspect(Block).columns).where(Block.source_id == source_id).order_by(Block.ordinal)
    ).all()


def text(db: Session, tenant: str, source_id: str, start: int, stop: int | None = None) -> tuple[str, int, int]:
    """`text[start:stop]` and where it really starts and stops; at most LONGEST_TEXT characters."""
    characters = get(db, tenant, source_id).characters or 0
    stop = characters if stop is None else min(stop, characters)
    if start < 0 or stop < start:
        raise InvalidInput(f"from={start} and to={stop} is no range of {characters} characters.", code="bad_range")
    stop = min(stop, start + LONGEST_TEXT)
    touching = Block.char_end > start, Block.char_start < stop
    query = sa.select(Block.text, Block.char_start).where(Block.source_id == source_id, *touching)
    rows = db.execute(query.order_by(Block.ordinal)).all()
    if not rows:
        return "", start, start
    offset = rows[0].char_start
    return "".join(row.text for row in rows)[start - offset : stop - offset], start, stop


def file(db: Session, tenant: str, source_id: str, path: str) -> dict[str, Any]:
    """The entry of one file of a repository, with its text."""
    source = get(db, tenant, source_id)
    for entry in source.files:
        if entry["path"] == path:
            words, _, _ = text(db, tenant, source_id, *entry["char"])
            return {**entry, "text": words}
    raise NotFound(f"There is no file {path!r} in {source_id}.")


def symbols(
    db: Session, tenant: str, source_id: str, query: str | None = None, limit: int | None = None
) -> list[Symbol]:
    """Those whose name contains `query`, whatever its case; exact names and shorter ones first."""
    get(db, tenant, source_id)
    wanted = sa.select(Symbol).where(Symbol.source_id == source_id)
    if query:
        lowered = sa.func.lower(Symbol.name)
        wanted = wanted.where(lowered.contains(query.lower(), autoescape=True))
        wanted = wanted.order_by(lowered != query.lower(), sa.func.length(Symbol.name), Symbol.ordinal)
    else:
        wanted = wanted.order_by(Symbol.ordinal)
    return list(db.scalars(wanted.limit(limit)))


def engine_session(source_id: str) -> str:
    """The engine session that holds a source's reading."""
    return f"src-{source_id}"


def discard(db: Session, tenant: str, engine_session_ids: Iterable[str]) -> None:
    """Notes engine sessions that must go, in the transaction that makes them ownerless."""
    for engine_session_id in dict.fromkeys(engine_session_ids):
        db.merge(Discarded(engine_session_id=engine_session_id, tenant=tenant))


def discarded(db: Session, limit: int = 100) -> list[tuple[str, str]]:
    """(tenant, engine session), oldest first. For the sweep, so of all tenants."""
    query = sa.select(Discarded).order_by(Discarded.created_at).limit(limit)
    return [(row.tenant, row.engine_session_id) for row in db.scalars(query)]


def forget_discarded(db: Session, tenant: str, engine_session_id: str) -> None:
    where = Discarded.tenant == tenant, Discarded.engine_session_id == engine_session_id
    db.execute(sa.delete(Discarded).where(*where))


def find_reading(db: Session, tenant: str, source_id: str) -> Reading | None:
    get(db, tenant, source_id)
    return db.scalar(sa.select(Reading).where(Reading.source_id == source_id))


def reading(db: Session, tenant: str, source_id: str) -> Reading:
    """The reading of a source; made when there is none yet."""
    found = find_reading(db, tenant, source_id)
    if found is None:
        found = Reading(id=new_id("rdg"), source_id=source_id, session_id=engine_session(source_id))
        found.segments_done, found.position, found.seconds, found.bytes = 0, 0, 0.0, 0
        found.shared_tokens, found.read_tokens = 0, 0
        db.add(found)
        db.flush()
    return found
