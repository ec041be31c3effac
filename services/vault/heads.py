"""Heads, bookmarks and history: the only mutable things in the vault, each moved by one script that Redis runs
atomically.

A head is a *view*: a manifest, a position within it, and the rolling digest there. Everything the manifest names was
written before the head moved to it. So at any instant, whoever was killed, a head is either the old or the new complete
reading. Every writer takes the session's next *epoch* first and shows it when it commits: a writer that was overtaken
(another replica, a rewind) is refused, not merged. Epochs never go below the clock, so that a Redis which lost its last
second cannot give the same one twice.

Keys of a tenant share one hash slot (`{tenant}`), because the scripts touch several of them:

    shiori:{tenant}:head:<session>   hash: manifest, position, view (sealed), epoch, parent, draft, used_ms, …
    shiori:{tenant}:marks:<session>  hash: bookmark name -> view as JSON
    shiori:{tenant}:hist:<session>   hash: when -> view that a rewind left behind, with the end of its lease
    shiori:{tenant}:known            hash: keyed name of a rolling digest -> a manifest that has a rung there
    shiori:{tenant}:index            sorted set of session ids
    shiori:{tenant}:counters         commits, sweeps, bytes; see keeper.py

Plain EVAL, no functions, no CAS commands: Redis 6.2 and Valkey both do.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import redis

from services import errors
from services.vault import scripts
from services.vault.keys import Keys
from services.vault.manifest import NOTHING
from services.vault.sealing import Damaged

_VIEW = "view"


@dataclass(frozen=True)
class View:
    """A place in a reading. `manifest` is "" before anything was read."""

    manifest: str = ""
    position: int = 0
    digest: str = NOTHING
    fingerprint: str = ""
    segments: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Head:
    session: str
    epoch: int
    view: View = View()
    parent: str = ""  # the manifest before this one
    draft: str = ""  # manifest of the segment that is being read, as far as it is saved
    draft_position: int = 0
    created_ms: int = 0
    used_ms: int = 0
    origin: str = ""  # the session this one was forked from
    cold: bool = False  # its blocks are in the cold tier only

    @property
    def position(self) -> int:
        return self.view.position

    @property
    def digest(self) -> str:
        return self.view.digest


@dataclass(frozen=True)
class Mark:
    name: str
    view: View
    created_ms: int
    pinned: bool = False


@dataclass(frozen=True)
class Past:
    """A view that a rewind left; kept until `until_ms`."""

    id: str
    view: View
    until_ms: int
    reason: str


class Heads:
    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._redis: Any = client
        self._keys = keys
        self._scripts = {name: client.register_script(source) for name, source in scripts.ALL.items()}

    # --- heads --------------------------------------------------------------------------------------------------------

    def open(self, tenant: str, session: str, fingerprint: str) -> Head:
        fields = self._plain(tenant, View(fingerprint=fingerprint))
        fields |= {"epoch": "1", "parent": "", "origin": "", "created_ms": str(now_ms()), "used_ms": str(now_ms())}
        keys = [_key(tenant, "head", session), _key(tenant, "index")]
        return self._head(tenant, session, self._run("open", keys, [session, *_flat(fields)]))

    def get(self, tenant: str, session: str) -> Head:
        return self._head(tenant, session, self._redis.hgetall(_key(tenant, "head", session)))

    def raw(self, tenant: str, session: str) -> dict[str, str]:
        """The fields as they are, checked by nobody; {} when there is no such session."""
        return raw_fields(self._redis.hgetall(_key(tenant, "head", session)))

    def begin(self, tenant: str, session: str) -> Head:
        """The head, with the next epoch taken: whoever began before can no longer commit."""
        return self._head(tenant, session, self._run("begin", [_key(tenant, "head", session)], [now_ms()]))

    def touch(self, tenant: str, session: str) -> None:
        """It is in use: the keeper leaves its blocks where they are."""
        self._run("touch", [_key(tenant, "head", session)], [now_ms()])

    def commit(self, tenant: str, old: Head, new: View, sweeps: str, known: Iterable[str], bookmark: str = "") -> str:
        """Moves the head. OK or SWEPT; what the client must hear is raised."""
        keys = [
            _key(tenant, *rest) for rest in (("head", old.session), ("marks", old.session), ("counters",), ("known",))
        ]
        mark = json.dumps(self._plain(tenant, new) | {"created_ms": str(now_ms())}) if bookmark else ""
        names, fields = list(known), _flat(self._plain(tenant, new))
        arguments = [old.epoch, old.view.manifest, old.position, sweeps, bookmark, mark, len(names), *names, *fields]
        answer = self._run("commit", [*keys, _key(tenant, "man", new.manifest)], arguments)
        return self._told(answer, old.session, bookmark, also=("SWEPT",))

    def draft(self, tenant: str, head: Head, manifest: str, position: int, sweeps: str, known: Iterable[str]) -> str:
        """Remembers how far the segment that is being read is saved. OK or SWEPT."""
        keys = [_key(tenant, "head", head.session), _key(tenant, "counters"), _key(tenant, "known")]
        names = list(known)
        arguments = [head.epoch, head.view.manifest, head.position, sweeps, manifest, position, *names]
        return self._told(self._run("draft", keys, arguments), head.session, "", also=("SWEPT",))

    def fork(self, tenant: str, session: str, new: str, bookmark: str) -> Head:
        """One key, whatever the length of the reading."""
        names = (("head", session), ("marks", session), ("head", new), ("index",), ("counters",))
        answer = self._run("fork", [_key(tenant, *rest) for rest in names], [bookmark, new, now_ms(), session])
        self._told(answer, session, new if answer == b"NAME_TAKEN" else bookmark)
        return self.get(tenant, new)

    def move(self, tenant: str, old: Head, new: View, reason: str, lease_ms: int) -> Head:
        """Rewinds to `new`; what is left behind goes into the history. The epoch moves too: it fences earlier
        writers.
        """
        now = now_ms()
        past = self._plain(tenant, old.view) | {"until_ms": str(now + lease_ms), "reason": reason}
        names = (("head", old.session), ("hist", old.session), ("counters",), ("man", new.manifest))
        arguments = [old.view.manifest, old.position, now, json.dumps(past), *_flat(self._plain(tenant, new))]
        answer = self._run("move", [_key(tenant, *rest) for rest in names], arguments)
        self._told(answer, old.session, "")
        return self.get(tenant, old.session)

    def mend(self, tenant: str, session: str, view: View) -> None:
        """Writes a head's view again, after a field of it was found damaged."""
        self._redis.hset(_key(tenant, "head", session), mapping=self._plain(tenant, view))

    def cool(self, tenant: str, head: Head) -> bool:
        """Its blocks are in the cold tier and may leave Redis. False: somebody used it meanwhile."""
        keys = [_key(tenant, "head", head.session), _key(tenant, "counters")]
        return bool(self._run("cool", keys, [head.used_ms, head.view.manifest, head.position]))

    def dump(self, tenant: str, session: str) -> dict[str, dict[str, str]]:
        """Everything mutable about a session, as it lies in Redis: for its copy in the cold tier."""
        return {
            kind: raw_fields(self._redis.hgetall(_key(tenant, kind, session))) for kind in ("head", "marks", "hist")
        }

    def load(self, tenant: str, session: str, dump: dict[str, dict[str, str]]) -> bool:
        """Puts a dump back. False: the session is there."""
        if self._redis.exists(_key(tenant, "head", session)):
            return False
        pipe = self._redis.pipeline(transaction=True)
        for kind in ("marks", "hist"):
            if dump[kind]:
                pipe.hset(_key(tenant, kind, session), mapping=dump[kind])
        pipe.zadd(_key(tenant, "index"), {session: 0})
        pipe.hset(_key(tenant, "head", session), mapping=dump["head"] | {"cold": "1", "epoch": str(now_ms())})
        pipe.hdel(_key(tenant, "head", session), "draft", "draft_position")
        pipe.hincrby(_key(tenant, "counters"), "commits", 1)
        pipe.execute()
        return True

    def delete(self, tenant: str, session: str) -> None:
        names = (("head", session), ("marks", session), ("hist", session), ("index",), ("counters",))
        there = self._run("delete", [_key(tenant, *rest) for rest in names], [session])
        self._told(b"OK" if there else b"GONE", session, "")

    def sessions(self, tenant: str, limit: int, after: str = "") -> list[str]:
        start = f"({after}" if after else "-"
        names = self._redis.zrangebylex(_key(tenant, "index"), start, "+", start=0, num=limit)
        return [name.decode() for name in names]

    def all_sessions(self, tenant: str) -> list[str]:
        """By the heads themselves: an index that lost a name must not make a sweep take a reading."""
        prefix = _key(tenant, "head", "")
        return sorted(key.decode()[len(prefix) :] for key in self._redis.scan_iter(f"{prefix}*", count=1000))

    # --- bookmarks and history ----------------------------------------------------------------------------------------

    def mark(self, tenant: str, session: str, name: str, pinned: bool = True) -> Mark:
        head = self.get(tenant, session)
        fields = self._plain(tenant, head.view) | {"created_ms": str(now_ms()), "pinned": "1" if pinned else ""}
        keys = [_key(tenant, "head", session), _key(tenant, "marks", session), _key(tenant, "counters")]
        answer = self._run("mark", keys, [name, json.dumps(fields), head.view.manifest, head.position])
        self._told(answer, session, name)
        return next(mark for mark in self.marks(tenant, session) if mark.name == name)

    def put_marks(self, tenant: str, session: str, marks: Iterable[Mark]) -> None:
        """Bookmarks that came with an imported reading; their views are on manifests that the head keeps."""
        fields = {
            mark.name: json.dumps(
                self._plain(tenant, mark.view) | {"created_ms": str(now_ms()), "pinned": "1" if mark.pinned else ""}
            )
            for mark in marks
        }
        if fields:
            self._redis.hset(_key(tenant, "marks", session), mapping=fields)

    def has_mark(self, tenant: str, session: str, name: str) -> bool:
        return bool(self._redis.hexists(_key(tenant, "marks", session), name))

    def marks(self, tenant: str, session: str) -> list[Mark]:
        """In the order of their positions."""
        found = []
        for name, raw in self._redis.hgetall(_key(tenant, "marks", session)).items():
            fields = _decoded(raw, session)
            view = self._view(tenant, session, fields)
            found.append(Mark(name.decode(), view, _number(fields, "created_ms"), bool(fields.get("pinned"))))
        return sorted(found, key=lambda mark: (mark.view.position, mark.created_ms))

    def history(self, tenant: str, session: str) -> list[Past]:
        """The latest first; without what is over."""
        found = []
        for when, raw in self._redis.hgetall(_key(tenant, "hist", session)).items():
            fields = _decoded(raw, session)
            view, until = self._view(tenant, session, fields), _number(fields, "until_ms")
            found.append(Past(when.decode(), view, until, fields["reason"]))
        return sorted((past for past in found if past.until_ms > now_ms()), key=lambda past: past.id, reverse=True)

    def forget_history(self, tenant: str, session: str, ids: list[str]) -> None:
        if ids:
            self._redis.hdel(_key(tenant, "hist", session), *ids)

    # --- what readings are known --------------------------------------------------------------------------------------

    def unlink(self, tenant: str, commits: str, keys: Iterable[bytes], unknown: list[str]) -> int:
        """Frees what a sweep found unused, unless a head moved since `commits` was read: then -1."""
        names: list[Any] = [_key(tenant, "counters"), _key(tenant, "known"), *keys]
        return int(self._run("unlink", names, [commits, *unknown]))

    def tell_known(self, tenant: str, names: Iterable[str], manifest: str) -> None:
        if mapping := dict.fromkeys(names, manifest):
            self._redis.hset(_key(tenant, "known"), mapping=mapping)

    def all_known(self, tenant: str) -> dict[str, str]:
        return raw_fields(self._redis.hgetall(_key(tenant, "known")))

    def known(self, tenant: str, names: list[str]) -> list[str | None]:
        """For each keyed name of a digest: the manifest that has a rung there."""
        if not names:
            return []
        values = self._redis.hmget(_key(tenant, "known"), names)
        return [value.decode(errors="replace") if value else None for value in values]

    # --- plain fields -------------------------------------------------------------------------------------------------

    def _plain(self, tenant: str, view: View) -> dict[str, str]:
        """Scripts compare manifest and position; all but the manifest's id is sealed as well, digest only there."""
        inner = [view.position, view.digest, view.fingerprint, view.segments, view.bytes]
        sealed = self._keys.of(tenant).seal_text(json.dumps(inner), _VIEW)
        return {"manifest": view.manifest, "position": str(view.position), "view": sealed}

    def _view(self, tenant: str, session: str, fields: dict[str, str]) -> View:
        plain = self._keys.of(tenant).open_text(fields.get("view", ""), _VIEW)
        if plain is None:
            raise Damaged(session, "its head or a bookmark is damaged", "head")
        position, digest, fingerprint, segments, size = json.loads(plain)
        return View(fields.get("manifest", ""), position, digest, fingerprint, segments, size)

    def _head(self, tenant: str, session: str, flat: Any) -> Head:
        fields = raw_fields(flat)
        if not fields:
            raise errors.NotFound(f"no session {session!r}", session=session)
        numbers = {name: _number(fields, name) for name in ("epoch", "draft_position", "created_ms", "used_ms")}
        words = {name: fields.get(name, "") for name in ("parent", "draft", "origin")}
        view = self._view(tenant, session, fields)
        return Head(session=session, view=view, cold=fields.get("cold") == "1", **numbers, **words)  # type: ignore[arg-type]

    def _run(self, script: str, keys: list[str], arguments: list[Any]) -> Any:
        return self._scripts[script](keys=keys, args=arguments)

    def _told(self, answer: bytes, session: str, name: str, also: tuple[str, ...] = ()) -> str:
        said = answer.decode()
        if said == "OK" or said in also:
            return said
        raise {
            "GONE": errors.NotFound(f"no session {session!r}", session=session),
            "NO_BOOKMARK": errors.NotFound(f"no bookmark {name!r} in session {session!r}", bookmark=name),
            "NAME_TAKEN": errors.AlreadyExists(f"the name {name!r} is taken", name=name),
            "HEAD_MOVED": errors.HeadMoved(f"session {session!r} went on meanwhile", session=session),
            "EPOCH_LOWER": errors.HeadMoved(
                f"another writer took over session {session!r}", code="epoch_lower", session=session
            ),
        }[said]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def raw_fields(flat: Any) -> dict[str, str]:
    pairs = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, value in pairs}


def _decoded(raw: bytes, session: str) -> dict[str, str]:
    try:
        fields: dict[str, str] = json.loads(raw)
    except ValueError:
        raise Damaged(session, "a bookmark of it is damaged", "head") from None
    return fields


def _number(fields: dict[str, str], name: str) -> int:
    value = fields.get(name) or "0"
    return int(value) if value.isascii() and value.isdigit() else 0


def _key(tenant: str, *rest: str) -> str:
    return ":".join((f"shiori:{{{tenant}}}", *rest))


def _flat(fields: dict[str, str]) -> list[str]:
    return [item for pair in fields.items() for item in pair]
