"""Idempotency-Key: the first request with a key does the work, the others get its answer, for a day."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from services.errors import Conflict, InvalidInput
from services.library.db import Database
from services.library.tables import IdempotentRequest, now

LIFE = timedelta(hours=24)
GIVEN_UP = timedelta(minutes=10)  # the process that held the key died before it answered


@dataclass(frozen=True)
class Stored:
    status: int
    body: dict[str, Any]
    location: str | None


def fingerprint(*parts: bytes | str) -> str:
    """Of what makes two requests the same."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()


def begin(database: Database, tenant: str, key: str, request_hash: str) -> Stored | None:
    """None: do the work, then `complete` or `abandon`. Otherwise the answer of the first time."""
    try:
        with database.write() as db:
            _expire(db)
            db.add(IdempotentRequest(tenant=tenant, key=key, request_hash=request_hash))
        return None
    except IntegrityError:
        return _replay(database, tenant, key, request_hash)


def _replay(database: Database, tenant: str, key: str, request_hash: str) -> Stored:
    with database.read() as db:
        found = db.get(IdempotentRequest, (tenant, key))
    if found is None or (found.status is None and found.request_hash == request_hash):
        raise Conflict(
            "The first request with this Idempotency-Key is still running.", code="in_progress", retry_after=1
        )
    if found.request_hash != request_hash:
        raise InvalidInput("This Idempotency-Key was used for another request.", code="idempotency_key_reused")
    return Stored(found.status or 200, found.body or {}, found.location)


def complete(db: Session, tenant: str, key: str, status: int, body: Mapping[str, Any], location: str | None) -> None:
    """In the transaction that did the work, so that both are there or neither."""
    values = {"status": status, "body": dict(body), "location": location}
    where = IdempotentRequest.tenant == tenant, IdempotentRequest.key == key
    db.execute(sa.update(IdempotentRequest).where(*where).values(values))


def abandon(database: Database, tenant: str, key: str) -> None:
    """The work failed: the key is free again."""
    where = IdempotentRequest.tenant == tenant, IdempotentRequest.key == key, IdempotentRequest.status.is_(None)
    with database.write() as db:
        db.execute(sa.delete(IdempotentRequest).where(*where))


def _expire(db: Session) -> None:
    old = IdempotentRequest.created_at < now() - LIFE
    stuck = sa.and_(IdempotentRequest.status.is_(None), IdempotentRequest.created_at < now() - GIVEN_UP)
    db.execute(sa.delete(IdempotentRequest).where(sa.or_(old, stuck)))
