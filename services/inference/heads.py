"""Heads and bookmarks: the only mutable things in the vault, each moved by one script that Redis runs atomically.

A head names a manifest, and everything the manifest names was written before the head moved there. So at any instant,
whoever was killed, a head is either the old or the new complete reading. Every writer takes the session's next *epoch*
first and shows it when it commits: a writer that was overtaken (another replica, a rewind) is refused, not merged.

Keys of a tenant share one hash slot (`{tenant}`), because the scripts touch several of them:

    shiori:{tenant}:head:<session>   hash: manifest, parent, position, digest, epoch, fingerprint, segments, bytes, …
    shiori:{tenant}:marks:<session>  hash: bookmark name -> the head's fields then, as JSON
    shiori:{tenant}:index            sorted set of session ids
    shiori:{tenant}:counters         commits and sweeps; see vault.sweep
    shiori:{tenant}:man:<id>         a manifest
    shiori:{tenant}:blk:<name>       a block

Plain EVAL, no functions, no CAS commands: Redis 6.2 and Valkey both do.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import redis

from services import errors
from services.inference.blocks import NOTHING

# A fork's and a bookmark's fields are a copy of the head's; these are what makes a reading.
_READING = "manifest position digest fingerprint segments bytes"

_OPEN = """
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], unpack(ARGV, 2))
  redis.call('ZADD', KEYS[2], 0, ARGV[1])
end
return redis.call('HGETALL', KEYS[1])
"""

_BEGIN = """
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
return redis.call('HGETALL', KEYS[1])
"""

# ARGV: epoch, parent manifest, sweeps seen, bookmark name, bookmark JSON, then the new fields.
_COMMIT = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 'GONE' end
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 'EPOCH_LOWER' end
if redis.call('HGET', KEYS[1], 'manifest') ~= ARGV[2] then return 'HEAD_MOVED' end
if (redis.call('HGET', KEYS[3], 'sweeps') or '0') ~= ARGV[3] then return 'SWEPT' end
if ARGV[4] ~= '' then
  if redis.call('HEXISTS', KEYS[2], ARGV[4]) == 1 then return 'NAME_TAKEN' end
  redis.call('HSET', KEYS[2], ARGV[4], ARGV[5])
end
redis.call('HSET', KEYS[1], 'parent', ARGV[2], unpack(ARGV, 6))
redis.call('HINCRBY', KEYS[3], 'commits', 1)
return 'OK'
"""

# ARGV: bookmark or '', new session id, now, the old session's id.
_FORK = f"""
local old = {{}}
if ARGV[1] == '' then
  for name in string.gmatch('{_READING}', '%S+') do old[name] = redis.call('HGET', KEYS[1], name) end
else
  local mark = redis.call('HGET', KEYS[2], ARGV[1])
  if not mark then return 'NO_BOOKMARK' end
  old = cjson.decode(mark)
end
if not old.manifest then return 'GONE' end
local there = redis.call('HGET', KEYS[3], 'manifest')
if there then return there == old.manifest and 'OK' or 'NAME_TAKEN' end
redis.call('HSET', KEYS[3], 'epoch', 1, 'parent', '', 'created_ms', ARGV[3], 'origin', ARGV[4])
for name in string.gmatch('{_READING}', '%S+') do redis.call('HSET', KEYS[3], name, old[name]) end
redis.call('ZADD', KEYS[4], 0, ARGV[2])
redis.call('HINCRBY', KEYS[5], 'commits', 1)
return 'OK'
"""

# The epoch moves too: a write that began before the rewind must not land on top of it.
_REWIND = f"""
if redis.call('EXISTS', KEYS[1]) == 0 then return 'GONE' end
local mark = redis.call('HGET', KEYS[2], ARGV[1])
if not mark then return 'NO_BOOKMARK' end
local old = cjson.decode(mark)
for name in string.gmatch('{_READING}', '%S+') do redis.call('HSET', KEYS[1], name, old[name]) end
redis.call('HSET', KEYS[1], 'parent', '')
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HINCRBY', KEYS[3], 'commits', 1)
return 'OK'
"""

_MARK = """
if redis.call('HGET', KEYS[1], 'manifest') ~= ARGV[3] then return 'HEAD_MOVED' end
local there = redis.call('HGET', KEYS[2], ARGV[1])
if there then return cjson.decode(there).manifest == ARGV[3] and 'OK' or 'NAME_TAKEN' end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('HINCRBY', KEYS[3], 'commits', 1)
return 'OK'
"""

_DELETE = """
local there = redis.call('DEL', KEYS[1])
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('HINCRBY', KEYS[4], 'commits', 1)
return there
"""


@dataclass(frozen=True)
class Head:
    session: str
    epoch: int
    manifest: str = ""  # "": nothing was read yet
    parent: str = ""
    position: int = 0
    digest: str = NOTHING
    fingerprint: str = ""
    segments: int = 0
    bytes: int = 0
    created_ms: int = 0
    origin: str = ""  # the session this one was forked from

    def fields(self) -> dict[str, str]:
        return {name: str(getattr(self, name)) for name in _READING.split()}


@dataclass(frozen=True)
class Mark:
    name: str
    head: Head
    created_ms: int


class Heads:
    def __init__(self, client: redis.Redis) -> None:
        self._redis: Any = client
        scripts = {
            "open": _OPEN, "begin": _BEGIN, "commit": _COMMIT, "fork": _FORK, "rewind": _REWIND,
            "mark": _MARK, "delete": _DELETE,
        }  # fmt: skip
        self._scripts = {name: client.register_script(source) for name, source in scripts.items()}

    def open(self, tenant: str, session: str, fingerprint: str) -> Head:
        fields = Head(session, 1, fingerprint=fingerprint).fields()
        fields |= {"epoch": "1", "parent": "", "origin": "", "created_ms": str(now_ms())}
        keys = [_head(tenant, session), _key(tenant, "index")]
        flat = [item for pair in fields.items() for item in pair]
        return _to_head(session, _pairs(self._run("open", keys, [session, *flat])))

    def get(self, tenant: str, session: str) -> Head:
        return self._found(session, self._redis.hgetall(_head(tenant, session)))

    def begin(self, tenant: str, session: str) -> Head:
        """The head, with the next epoch taken: whoever began before can no longer commit."""
        return self._found(session, _pairs(self._run("begin", [_head(tenant, session)], [])))

    def commit(self, tenant: str, old: Head, new: Head, sweeps: str, bookmark: str) -> str:
        """OK or SWEPT; what the client must hear is raised."""
        mark = json.dumps(new.fields() | {"created_ms": str(now_ms()), "epoch": str(old.epoch)})
        flat = [item for pair in new.fields().items() for item in pair]
        keys = [_head(tenant, old.session), _marks(tenant, old.session), _key(tenant, "counters")]
        answer = self._run("commit", keys, [old.epoch, old.manifest, sweeps, bookmark, mark, *flat])
        return self._told(answer, old.session, bookmark, also=("SWEPT",))

    def fork(self, tenant: str, session: str, new: str, bookmark: str) -> Head:
        keys = [
            *(_head(tenant, session), _marks(tenant, session), _head(tenant, new)),
            *(_key(tenant, "index"), _key(tenant, "counters")),
        ]
        answer = self._run("fork", keys, [bookmark, new, now_ms(), session])
        self._told(answer, session, new if answer == b"NAME_TAKEN" else bookmark)
        return self.get(tenant, new)

    def rewind(self, tenant: str, session: str, bookmark: str) -> Head:
        keys = [_head(tenant, session), _marks(tenant, session), _key(tenant, "counters")]
        self._told(self._run("rewind", keys, [bookmark]), session, bookmark)
        return self.get(tenant, session)

    def mark(self, tenant: str, session: str, name: str) -> Mark:
        head = self.get(tenant, session)
        fields = head.fields() | {"created_ms": str(now_ms()), "epoch": str(head.epoch)}
        keys = [_head(tenant, session), _marks(tenant, session), _key(tenant, "counters")]
        self._told(self._run("mark", keys, [name, json.dumps(fields), head.manifest]), session, name)
        return next(mark for mark in self.marks(tenant, session) if mark.name == name)

    def marks(self, tenant: str, session: str) -> list[Mark]:
        """Bookmarks in the order of their positions."""
        found = []
        for name, raw in self._redis.hgetall(_marks(tenant, session)).items():
            fields = json.loads(raw)
            found.append(Mark(name.decode(), _to_head(session, fields), int(fields["created_ms"])))
        return sorted(found, key=lambda mark: (mark.head.position, mark.created_ms))

    def sessions(self, tenant: str, limit: int, after: str = "") -> list[str]:
        start = f"({after}" if after else "-"
        names = self._redis.zrangebylex(_key(tenant, "index"), start, "+", start=0, num=limit)
        return [name.decode() for name in names]

    def delete(self, tenant: str, session: str) -> None:
        keys = [
            *(_head(tenant, session), _marks(tenant, session)),
            *(_key(tenant, "index"), _key(tenant, "counters")),
        ]
        self._told(b"OK" if self._run("delete", keys, [session]) else b"GONE", session, "")

    def _run(self, script: str, keys: list[str], args: list[Any]) -> Any:
        return self._scripts[script](keys=keys, args=args)

    def _found(self, session: str, fields: dict[bytes, bytes]) -> Head:
        if not fields:
            raise errors.NotFound(f"no session {session!r}", session=session)
        return _to_head(session, fields)

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


def _key(tenant: str, *rest: str) -> str:
    return ":".join((f"shiori:{{{tenant}}}", *rest))


def _head(tenant: str, session: str) -> str:
    return _key(tenant, "head", session)


def _marks(tenant: str, session: str) -> str:
    return _key(tenant, "marks", session)


def counters_key(tenant: str) -> str:
    return _key(tenant, "counters")


def manifest_key(tenant: str, manifest: str) -> str:
    return _key(tenant, "man", manifest)


def block_key(tenant: str, name: str) -> str:
    return _key(tenant, "blk", name)


def _pairs(flat: list[bytes] | dict[bytes, bytes]) -> dict[bytes, bytes]:
    if isinstance(flat, dict):
        return flat
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _to_head(session: str, fields: dict[Any, Any]) -> Head:
    plain = {_str(name): _str(value) for name, value in fields.items()}
    numbers = {name: int(plain.get(name) or 0) for name in ("epoch", "position", "segments", "bytes", "created_ms")}
    words = {name: plain.get(name, "") for name in ("manifest", "parent", "digest", "fingerprint", "origin")}
    return Head(session=session, **numbers, **words)  # type: ignore[arg-type]


def _str(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
