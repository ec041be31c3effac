"""Sessions, their turns and bookmarks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, selectinload

from services.errors import AlreadyExists, Conflict, HeadMoved, InvalidInput, NotFound, NotReady
from services.library import sources
from services.library.ids import new_id
from services.library.pages import Page, newest_first
from services.library.tables import Bookmark, ChatSession, Quote, SessionSource, Turn

OPEN = ("queued", "running")


def create(
    db: Session,
    tenant: str,
    source_ids: Sequence[str],
    title: str | None = None,
    parent: str | None = None,
    forked_at: str | None = None,
    until: int | None = None,
) -> ChatSession:
    found = sources.get_many(db, tenant, list(dict.fromkeys(source_ids)))
    made = new_id("ses")
    session = ChatSession(id=made, tenant=tenant, engine_session_id=made, head=made, parent=parent, forked_at=forked_at)
    session.until = until
    session.title = title or ", ".join(source.title for source in found)
    session.sources = [SessionSource(source_id=source.id, ordinal=n) for n, source in enumerate(found)]
    db.add(session)
    db.flush()
    return session


def chapter_end(db: Session, tenant: str, source_ids: Sequence[str], chapter: int) -> int:
    """The character where a chapter of the one source ends: a place where its reading has a bookmark."""
    if len(source_ids) != 1:
        raise InvalidInput("until_chapter needs exactly one source.", errors=[{"pointer": "/until_chapter"}])
    source = sources.get(db, tenant, source_ids[0])
    if source.status != "ready" or source.reading_id is None:
        raise NotReady(f"{source.title} has not been read.")
    ends = {entry["char"][1] for entry in source.outline if entry["level"] == 1}
    if chapter >= len(source.outline) or source.outline[chapter]["char"][1] not in ends:
        detail = "no chapter that ends where one of the top level ends"
        raise InvalidInput(f"{chapter} is {detail}.", errors=[{"pointer": "/until_chapter", "detail": detail}])
    return int(source.outline[chapter]["char"][1])


def get(db: Session, tenant: str, session_id: str, *, lock: bool = False) -> ChatSession:
    """With `lock`, nobody else changes it until the transaction ends."""
    query = sa.select(ChatSession).where(ChatSession.tenant == tenant, ChatSession.id == session_id)
    query = query.options(selectinload(ChatSession.sources))
    session = db.scalar(query.with_for_update() if lock else query)
    if session is None:
        raise NotFound(f"There is no session {session_id}.")
    return session


def list_page(
    db: Session, tenant: str, limit: int, after: str | None, source_id: str | None = None
) -> Page[ChatSession]:
    query = sa.select(ChatSession).where(ChatSession.tenant == tenant).options(selectinload(ChatSession.sources))
    if source_id:
        query = query.where(ChatSession.sources.any(SessionSource.source_id == source_id))
    return newest_first(db, ChatSession, query, limit, after)


def rename(db: Session, tenant: str, session_id: str, title: str) -> ChatSession:
    session = get(db, tenant, session_id)
    session.title = title
    return session


def add_turn(db: Session, tenant: str, session_id: str, question: str, expected_head: str | None) -> Turn:
    """A question at the session's head. One at a time: a second one, or a moved head, is a conflict."""
    session = get(db, tenant, session_id, lock=True)
    if not session.sources:
        raise Conflict("The sources of this session were deleted.", code="sources_deleted")
    if expected_head is not None and expected_head != session.head:
        raise HeadMoved("The session went on meanwhile.", head=session.head)
    _refuse_when_busy(db, session.id)
    turn = Turn(id=new_id("msg"), session_id=session.id, question=question, status="queued", quotes=[])
    turn.head_before, turn.ordinal = session.head, _ordinal_of(db, session, session.head) + 1
    db.add(turn)
    db.flush()
    return turn


def get_turn(db: Session, tenant: str, turn_id: str) -> Turn:
    query = sa.select(Turn).join(ChatSession, ChatSession.id == Turn.session_id).options(selectinload(Turn.quotes))
    turn = db.scalar(query.where(ChatSession.tenant == tenant, Turn.id == turn_id))
    if turn is None:
        raise NotFound(f"There is no message {turn_id}.")
    return turn


def history(db: Session, tenant: str, session_id: str) -> list[Turn]:
    """The turns that lead to the head, oldest first, and behind them the one being answered or just failed there."""
    session = get(db, tenant, session_id)
    query = sa.select(Turn).where(Turn.session_id == session.id).options(selectinload(Turn.quotes))
    turns = {turn.id: turn for turn in db.scalars(query.order_by(Turn.created_at))}
    chain = list(_chain(turns, session.head))
    pending = [turn for turn in turns.values() if turn.head_before == session.head and turn.status != "succeeded"]
    return [*chain[::-1], *pending]


def _chain(turns: Mapping[str, Turn], head: str) -> Iterable[Turn]:
    while (turn := turns.get(head)) is not None:
        yield turn
        head = turn.head_before


def _ordinal_of(db: Session, session: ChatSession, head: str) -> int:
    """How many answered turns stand before `head`; it must be the session's own id or one of its answered messages."""
    if head == session.id:
        return 0
    where = Turn.id == head, Turn.session_id == session.id, Turn.status == "succeeded"
    ordinal = db.scalar(sa.select(Turn.ordinal).where(*where))
    if ordinal is None:
        raise NotFound(f"There is no message {head} in {session.id}.")
    return int(ordinal)


def complete(db: Session, tenant: str, turn_id: str, quotes: Sequence[Mapping[str, Any]], **fields: Any) -> Turn:
    """Stores an answer and moves the session's head to it. Running it twice leaves one copy."""
    turn = get_turn(db, tenant, turn_id)
    session = get(db, tenant, turn.session_id, lock=True)
    db.execute(sa.delete(Quote).where(Quote.turn_id == turn.id))
    db.add_all(Quote(turn_id=turn.id, ordinal=n, **quote) for n, quote in enumerate(quotes, 1))
    for name, value in fields.items():
        setattr(turn, name, value)
    turn.status, turn.error, turn.head_after = "succeeded", None, turn.id
    session.head = turn.id
    db.flush()
    return turn


def set_turn_status(db: Session, turn_id: str, status: str, error: Mapping[str, Any] | None = None) -> None:
    values = {"status": status, "error": dict(error) if error else None}
    db.execute(sa.update(Turn).where(Turn.id == turn_id, Turn.status.in_(OPEN)).values(values))


def reopen_turn(db: Session, tenant: str, turn_id: str) -> None:
    """A question that failed or was cancelled is put again, if the session still stands where it was asked."""
    turn = get_turn(db, tenant, turn_id)
    session = get(db, tenant, turn.session_id, lock=True)
    if turn.head_before != session.head:
        raise HeadMoved("The session went on meanwhile: ask again.", head=session.head)
    _refuse_when_busy(db, session.id)
    turn.status, turn.error = "queued", None


def _refuse_when_busy(db: Session, session_id: str) -> None:
    if busy := db.scalar(sa.select(Turn.id).where(Turn.session_id == session_id, Turn.status.in_(OPEN)).limit(1)):
        raise Conflict("The session is answering another question.", code="session_busy", message=busy)


def add_bookmark(db: Session, tenant: str, session_id: str, name: str) -> Bookmark:
    session = get(db, tenant, session_id, lock=True)
    if db.scalar(sa.select(Bookmark.id).where(Bookmark.session_id == session.id, Bookmark.name == name)):
        raise AlreadyExists(f"The session has a bookmark named {name!r} already.")
    turn = _ordinal_of(db, session, session.head)
    bookmark = Bookmark(id=new_id("bkm"), session_id=session.id, name=name, turn=turn, head=session.head)
    db.add(bookmark)
    db.flush()
    return bookmark


def bookmarks(db: Session, tenant: str, session_id: str) -> list[Bookmark]:
    get(db, tenant, session_id)
    query = sa.select(Bookmark).where(Bookmark.session_id == session_id)
    return list(db.scalars(query.order_by(Bookmark.created_at, Bookmark.id)))


def resolve(db: Session, session: ChatSession, mark: str | None) -> str:
    """The head that a bookmark's id or name, or a message's id, stands for; the present one for None."""
    if mark is None:
        return session.head
    named = sa.or_(Bookmark.id == mark, Bookmark.name == mark)
    if head := db.scalar(sa.select(Bookmark.head).where(Bookmark.session_id == session.id, named)):
        return head
    _ordinal_of(db, session, mark)
    return mark


def rewind(db: Session, tenant: str, session_id: str, mark: str) -> ChatSession:
    """Moves the head back. The engine's session follows when the next question comes."""
    session = get(db, tenant, session_id, lock=True)
    _refuse_when_busy(db, session.id)
    session.head = resolve(db, session, mark)
    return session


def fork(db: Session, tenant: str, session_id: str, mark: str | None, title: str | None = None) -> ChatSession:
    """A new session with a copy of the history up to a bookmark, or up to the head."""
    origin = get(db, tenant, session_id)
    if not origin.sources:
        raise InvalidInput("The sources of this session were deleted.", code="sources_deleted")
    head = resolve(db, origin, mark)
    source_ids = [link.source_id for link in origin.sources]
    made = create(db, tenant, source_ids, title or origin.title, parent=origin.id, forked_at=head, until=origin.until)
    query = sa.select(Turn).where(Turn.session_id == origin.id).options(selectinload(Turn.quotes))
    turns = {turn.id: turn for turn in db.scalars(query)}
    for turn in [*_chain(turns, head)][::-1]:
        made.head = _copy_turn(db, made, turn)
    db.flush()
    return made


def _copy_turn(db: Session, session: ChatSession, turn: Turn) -> str:
    copied = "status ordinal question answer origin usage timing evidence answered confirmed engine_mark"
    copy = Turn(id=new_id("msg"), session_id=session.id, **{name: getattr(turn, name) for name in copied.split()})
    copy.head_before, copy.head_after, copy.created_at = session.head, copy.id, turn.created_at
    copy.quotes = [_copy_quote(quote) for quote in turn.quotes]
    db.add(copy)
    return copy.id


def _copy_quote(quote: Quote) -> Quote:
    kept = ("ordinal", "text", "source_id", "char", "line", "page", "path", "chapter", "match", "span")
    return Quote(**{name: getattr(quote, name) for name in kept})
