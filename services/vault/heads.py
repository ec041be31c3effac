"""Heads: where a tenant's sessions stand, each moved by one script that Redis runs atomically (scripts.py).

A head is a *view*: a manifest, a position within it, and the rolling digest there. Everything the manifest names was
written before the head moved to it. So at any instant, whoever was killed, a head is either the old or the new complete
reading. Every writer takes the session's next *epoch* first and shows it when it commits: a writer that was overtaken
(another replica, a rewind) is refused, not merged. Epochs never go below the clock, so that a Redis which lost its last
second cannot give the same one twice.

What a tenant has beside its blocks, all under `shiori:{tenant}:` (names.py):

    head:<session>   hash: manifest, position, view (sealed), epoch, parent, draft, used_ms, …
    marks:<session>  hash: bookmark name -> view as JSON; see marks.py
    hist:<session>   hash: when -> view that a rewind left behind, with the end of its lease
    known            hash: keyed name of a rolling digest -> a manifest that has a rung there; see known.py
    index            sorted set of session ids
    counters         commits, sweeps, bytes; see keeper.py
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import redis

from services.vault import scripts
from services.vault.keys import Keys
from services.vault.names import manifest_key, tenant_key
from services.vault.scripts import told
from services.vault.views import Head, View, Views, flat, now_ms, raw_fields

__all__ = ["Head", "Heads", "View", "now_ms"]


class Heads:
    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._redis: Any = client
        self._views = Views(keys)
        self._scripts = {name: client.register_script(source) for name, source in scripts.HEADS.items()}

    def open(self, tenant: str, session: str, fingerprint: str) -> Head:
        fields = self._views.plain(tenant, View(fingerprint=fingerprint))
        fields |= {"epoch": "1", "parent": "", "origin": "", "created_ms": str(now_ms()), "used_ms": str(now_ms())}
        keys = _keys(tenant, ("head", session), ("index",))
        return self._views.head(tenant, session, self._run("open", keys, [session, *flat(fields)]))

    def get(self, tenant: str, session: str) -> Head:
        return self._views.head(tenant, session, self._redis.hgetall(tenant_key(tenant, "head", session)))

    def raw(self, tenant: str, session: str) -> dict[str, str]:
        """The fields as they are, checked by nobody; {} when there is no such session."""
        return raw_fields(self._redis.hgetall(tenant_key(tenant, "head", session)))

    def has_mark(self, tenant: str, session: str, name: str) -> bool:
        return bool(self._redis.hexists(tenant_key(tenant, "marks", session), name))

    def begin(self, tenant: str, session: str) -> Head:
        """The head, with the next epoch taken: whoever began before can no longer commit."""
        return self._views.head(tenant, session, self._run("begin", [tenant_key(tenant, "head", session)], [now_ms()]))

    def touch(self, tenant: str, session: str) -> None:
        """It is in use: the keeper leaves its blocks where they are. Not noted by a Redis that can write nothing now:
        what is there can be opened all the same."""
        try:
            self._run("touch", [tenant_key(tenant, "head", session)], [now_ms()])
        except redis.exceptions.ResponseError as error:
            if not any(word in str(error) for word in ("OOM command", "MISCONF")):  # as in a script's own error
                raise

    def commit(self, tenant: str, old: Head, new: View, sweeps: str, known: Iterable[str], bookmark: str = "") -> str:
        """Moves the head. OK or SWEPT; what the client must hear is raised."""
        keys = _keys(tenant, ("head", old.session), ("marks", old.session), ("counters",), ("known",))
        mark = json.dumps(self._views.plain(tenant, new) | {"created_ms": str(now_ms())}) if bookmark else ""
        names, fields = list(known), flat(self._views.plain(tenant, new))
        arguments = [old.epoch, old.view.manifest, old.position, sweeps, bookmark, mark, len(names), *names, *fields]
        answer = self._run("commit", [*keys, manifest_key(tenant, new.manifest)], arguments)
        return told(answer, old.session, bookmark, also=("SWEPT",))

    def draft(self, tenant: str, head: Head, manifest: str, position: int, sweeps: str, known: Iterable[str]) -> str:
        """Remembers how far the segment that is being read is saved. OK or SWEPT."""
        keys = _keys(tenant, ("head", head.session), ("counters",), ("known",))
        names = list(known)
        arguments = [head.epoch, head.view.manifest, head.position, sweeps, manifest, position, *names]
        return told(self._run("draft", keys, arguments), head.session, also=("SWEPT",))

    def fork(self, tenant: str, session: str, new: str, bookmark: str) -> Head:
        """One key, whatever the length of the reading."""
        keys = _keys(tenant, ("head", session), ("marks", session), ("head", new), ("index",), ("counters",))
        answer = self._run("fork", keys, [bookmark, new, now_ms(), session])
        told(answer, session, new if answer == b"NAME_TAKEN" else bookmark)
        return self.get(tenant, new)

    def move(self, tenant: str, old: Head, new: View, reason: str, lease_ms: int) -> Head:
        """Rewinds to `new`; what is left goes into the history. The epoch moves too: it fences earlier writers."""
        now = now_ms()
        past = self._views.plain(tenant, old.view) | {"until_ms": str(now + lease_ms), "reason": reason}
        keys = _keys(tenant, ("head", old.session), ("hist", old.session), ("counters",), ("man", new.manifest))
        arguments = [old.view.manifest, old.position, now, json.dumps(past), *flat(self._views.plain(tenant, new))]
        told(self._run("move", keys, arguments), old.session)
        return self.get(tenant, old.session)

    def mend(self, tenant: str, session: str, view: View) -> None:
        """Writes a head's view again, after a field of it was found damaged."""
        self._redis.hset(tenant_key(tenant, "head", session), mapping=self._views.plain(tenant, view))

    def cool(self, tenant: str, head: Head) -> bool:
        """Its blocks are in the cold tier and may leave Redis. False: somebody used it meanwhile."""
        keys = _keys(tenant, ("head", head.session), ("counters",))
        return bool(self._run("cool", keys, [head.used_ms, head.view.manifest, head.position]))

    def dump(self, tenant: str, session: str) -> dict[str, dict[str, str]]:
        """Everything mutable about a session, as it lies in Redis: for its copy in the cold tier."""
        return {
            kind: raw_fields(self._redis.hgetall(tenant_key(tenant, kind, session)))
            for kind in ("head", "marks", "hist")
        }

    def load(self, tenant: str, session: str, dump: dict[str, dict[str, str]]) -> bool:
        """Puts a dump back. False: the session is there."""
        if self._redis.exists(tenant_key(tenant, "head", session)):
            return False
        pipe = self._redis.pipeline(transaction=True)
        for kind in ("marks", "hist"):
            if dump[kind]:
                pipe.hset(tenant_key(tenant, kind, session), mapping=dump[kind])
        pipe.zadd(tenant_key(tenant, "index"), {session: 0})
        pipe.hset(tenant_key(tenant, "head", session), mapping=dump["head"] | {"cold": "1", "epoch": str(now_ms())})
        pipe.hdel(tenant_key(tenant, "head", session), "draft", "draft_position")
        pipe.hincrby(tenant_key(tenant, "counters"), "commits", 1)
        pipe.execute()
        return True

    def delete(self, tenant: str, session: str) -> None:
        keys = _keys(tenant, ("head", session), ("marks", session), ("hist", session), ("index",), ("counters",))
        told(b"OK" if self._run("delete", keys, [session]) else b"GONE", session)

    def sessions(self, tenant: str, limit: int, after: str = "") -> list[str]:
        start = f"({after}" if after else "-"
        names = self._redis.zrangebylex(tenant_key(tenant, "index"), start, "+", start=0, num=limit)
        return [name.decode() for name in names]

    def all_sessions(self, tenant: str) -> list[str]:
        """By the heads themselves: an index that lost a name must not make a sweep take a reading."""
        prefix = tenant_key(tenant, "head", "")
        return sorted(key.decode()[len(prefix) :] for key in self._redis.scan_iter(f"{prefix}*", count=1000))

    def _run(self, script: str, keys: list[str], arguments: list[Any]) -> Any:
        return self._scripts[script](keys=keys, args=arguments)


def _keys(tenant: str, *names: tuple[str, ...]) -> list[str]:
    return [tenant_key(tenant, *name) for name in names]
