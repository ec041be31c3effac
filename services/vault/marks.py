"""Bookmarks and history: views of a session that a sweep must not take.

A bookmark on a manifest that a commit extends goes along to the new one, by the commit's script. What a rewind leaves
is kept until its lease ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import redis

from services.vault import scripts
from services.vault.keys import Keys
from services.vault.names import counters_key, tenant_key
from services.vault.sealing import Damaged
from services.vault.views import Head, Mark, Past, Views, now_ms, number, raw_fields


class Marks:
    """`head`: of a tenant's session."""

    def __init__(self, client: redis.Redis, keys: Keys, head: Callable[[str, str], Head]) -> None:
        self._redis: Any = client
        self._views, self._head = Views(keys), head
        self._mark = client.register_script(scripts.MARK)

    def put(self, tenant: str, session: str, name: str, pinned: bool = True) -> Mark:
        """A bookmark where the head stands. Raises AlreadyExists when the name is that of another place."""
        head = self._head(tenant, session)
        keys = [tenant_key(tenant, "head", session), tenant_key(tenant, "marks", session), counters_key(tenant)]
        fields = self._fields(tenant, Mark(name, head.view, now_ms(), pinned))
        answer: Any = self._mark(keys=keys, args=[name, fields, head.view.manifest, head.position])
        scripts.told(answer, session, name)
        return next(mark for mark in self.all(tenant, session) if mark.name == name)

    def put_all(self, tenant: str, session: str, marks: Iterable[Mark]) -> None:
        """Bookmarks that came with an imported reading; their views are on manifests that the head keeps."""
        if fields := {mark.name: self._fields(tenant, mark) for mark in marks}:
            self._redis.hset(tenant_key(tenant, "marks", session), mapping=fields)

    def all(self, tenant: str, session: str) -> list[Mark]:
        """In the order of their positions. Raises Damaged."""
        found = []
        for name, fields in self._stored(tenant, "marks", session):
            view = self._views.view(tenant, session, fields)
            found.append(Mark(name, view, number(fields, "created_ms"), bool(fields.get("pinned"))))
        return sorted(found, key=lambda mark: (mark.view.position, mark.created_ms))

    def standing_at(self, tenant: str, sessions: Iterable[str], position: int) -> list[str]:
        """Of the sessions, the oldest first, whose head or bookmark seems to stand there."""
        names, pipe = list(sessions), self._redis.pipeline(transaction=False)
        for name in names:
            pipe.hmget(tenant_key(tenant, "head", name), "created_ms", "position")
            pipe.hvals(tenant_key(tenant, "marks", name))
        answers, wanted = iter(pipe.execute()), str(position).encode()
        found = []
        for name, ((created, at), marks) in zip(names, zip(answers, answers, strict=True), strict=True):
            if at == wanted or any(b'"%s"' % wanted in mark for mark in marks):
                found.append((created or b"", name))
        return [name for _, name in sorted(found)]

    def history(self, tenant: str, session: str) -> list[Past]:
        """The latest first; without what is over. Raises Damaged."""
        found = []
        for when, fields in self._stored(tenant, "hist", session):
            view, until = self._views.view(tenant, session, fields), number(fields, "until_ms")
            found.append(Past(when, view, until, fields["reason"]))
        return sorted((past for past in found if past.until_ms > now_ms()), key=lambda past: past.id, reverse=True)

    def prune(self, tenant: str, session: str) -> int | None:
        """Drops what is over from the history. When the next entry will be, in ms of the clock; None: there is none.

        An entry that cannot be read stays: it says so to whoever sweeps.
        """
        ends = dict(self._ends(tenant, session))
        over = [when for when, until in ends.items() if until <= now_ms()]
        if over:
            self._redis.hdel(tenant_key(tenant, "hist", session), *over)
        return min((until for when, until in ends.items() if when not in over), default=None)

    def _ends(self, tenant: str, session: str) -> Iterator[tuple[str, int]]:
        for when, raw in raw_fields(self._redis.hgetall(tenant_key(tenant, "hist", session))).items():
            try:
                yield when, int(json.loads(raw)["until_ms"])
            except (ValueError, KeyError, TypeError):
                continue

    def _fields(self, tenant: str, mark: Mark) -> str:
        more = {"created_ms": str(mark.created_ms or now_ms()), "pinned": "1" if mark.pinned else ""}
        return json.dumps(self._views.plain(tenant, mark.view) | more)

    def _stored(self, tenant: str, kind: str, session: str) -> Iterator[tuple[str, dict[str, str]]]:
        for name, raw in self._redis.hgetall(tenant_key(tenant, kind, session)).items():
            try:
                yield name.decode(), json.loads(raw)
            except ValueError:
                raise Damaged(session, "a bookmark of it is damaged", "head") from None
