"""The scripts that move heads, and the one that unlinks what nothing names. Each is one atomic step in Redis; its first
lines are all that may refuse it.

Plain EVAL, no functions, no CAS commands: Redis 6.2 and Valkey both do.
"""

from services import errors

_OPEN = """
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], unpack(ARGV, 2))
  redis.call('ZADD', KEYS[2], 0, ARGV[1])
end
return redis.call('HGETALL', KEYS[1])
"""

# ARGV: now. The epoch is a number whatever happened to it, and never below the clock.
_BEGIN = """
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
local epoch = redis.call('HGET', KEYS[1], 'epoch') or ''
local next = string.match(epoch, '^%d+$') and #epoch < 15 and tonumber(epoch) + 1 or 0
redis.call('HSET', KEYS[1], 'epoch', string.format('%.0f', math.max(next, tonumber(ARGV[1]))), 'used_ms', ARGV[1])
redis.call('HDEL', KEYS[1], 'cold')
return redis.call('HGETALL', KEYS[1])
"""

_TOUCH = """
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], 'used_ms', ARGV[1])
  redis.call('HDEL', KEYS[1], 'cold')
end
"""

# ARGV: used_ms, manifest and position as they were when its blocks were copied down.
_COOL = """
if redis.call('HGET', KEYS[1], 'used_ms') ~= ARGV[1] then return 0 end
if redis.call('HGET', KEYS[1], 'manifest') ~= ARGV[2] then return 0 end
if redis.call('HGET', KEYS[1], 'position') ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], 'cold', '1')
redis.call('HINCRBY', KEYS[2], 'commits', 1)
return 1
"""

# KEYS: counters, known, then what to unlink. ARGV: commits counted when the marking began, names that are known no
# more. -> freed bytes, or -1
UNLINK = """
if (redis.call('HGET', KEYS[1], 'commits') or '0') ~= ARGV[1] then return -1 end
local freed = 0
for i = 3, #KEYS do
  freed = freed + redis.call('STRLEN', KEYS[i])
  redis.call('UNLINK', KEYS[i])
end
for i = 2, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end
redis.call('HINCRBY', KEYS[1], 'sweeps', 1)
return freed
"""

_MAY_WRITE = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 'GONE' end
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 'EPOCH_LOWER' end
if redis.call('HGET', KEYS[1], 'manifest') ~= ARGV[2] then return 'HEAD_MOVED' end
if redis.call('HGET', KEYS[1], 'position') ~= ARGV[3] then return 'HEAD_MOVED' end
"""

# KEYS: head, marks, counters, known, new manifest. ARGV: epoch, manifest, position, sweeps, bookmark, its JSON, number
# of known names, the names, fields. Bookmarks on the old manifest that lie at or before the head go along to the new
# one, which holds all that the old one held up to there; so superseded manifests need not be kept for them.
_COMMIT = (
    _MAY_WRITE
    + """
if (redis.call('HGET', KEYS[3], 'sweeps') or '0') ~= ARGV[4] then return 'SWEPT' end
if redis.call('EXISTS', KEYS[5]) == 0 then return 'SWEPT' end
if ARGV[5] ~= '' and redis.call('HEXISTS', KEYS[2], ARGV[5]) == 1 then return 'NAME_TAKEN' end
local names, fields = 7, 8 + tonumber(ARGV[7])
local new = ''
for i = fields, #ARGV, 2 do if ARGV[i] == 'manifest' then new = ARGV[i + 1] end end
if ARGV[2] ~= '' and ARGV[2] ~= new then
  local marks = redis.call('HGETALL', KEYS[2])
  for i = 1, #marks, 2 do
    local read, mark = pcall(cjson.decode, marks[i + 1])
    if read and mark.manifest == ARGV[2] and tonumber(mark.position) <= tonumber(ARGV[3]) then
      mark.manifest = new
      redis.call('HSET', KEYS[2], marks[i], cjson.encode(mark))
    end
  end
end
if ARGV[5] ~= '' then redis.call('HSET', KEYS[2], ARGV[5], ARGV[6]) end
for i = names + 1, fields - 1 do redis.call('HSET', KEYS[4], ARGV[i], new) end
redis.call('HSET', KEYS[1], 'parent', ARGV[2], unpack(ARGV, fields))
redis.call('HDEL', KEYS[1], 'draft', 'draft_position')
redis.call('HINCRBY', KEYS[3], 'commits', 1)
return 'OK'
"""
)

# KEYS: head, counters, known. ARGV: epoch, manifest, position, sweeps, draft, its position, known names.
_DRAFT = (
    _MAY_WRITE
    + """
if (redis.call('HGET', KEYS[2], 'sweeps') or '0') ~= ARGV[4] then return 'SWEPT' end
for i = 7, #ARGV do redis.call('HSET', KEYS[3], ARGV[i], ARGV[5]) end
redis.call('HSET', KEYS[1], 'draft', ARGV[5], 'draft_position', ARGV[6])
redis.call('HINCRBY', KEYS[2], 'commits', 1)
return 'OK'
"""
)

# KEYS: head, marks, new head, index, counters. ARGV: bookmark or '', new session id, now, the old session's id.
_FORK = """
local manifest, position, view
if ARGV[1] == '' then
  manifest, position, view = unpack(redis.call('HMGET', KEYS[1], 'manifest', 'position', 'view'))
else
  local raw = redis.call('HGET', KEYS[2], ARGV[1])
  if not raw then return redis.call('EXISTS', KEYS[1]) == 1 and 'NO_BOOKMARK' or 'GONE' end
  local mark = cjson.decode(raw)
  manifest, position, view = mark.manifest, mark.position, mark.view
end
if not view then return 'GONE' end
local there = redis.call('HGET', KEYS[3], 'view')
if there then return there == view and 'OK' or 'NAME_TAKEN' end
redis.call('HSET', KEYS[3], 'epoch', 1, 'parent', '', 'created_ms', ARGV[3], 'used_ms', ARGV[3], 'origin', ARGV[4],
  'manifest', manifest, 'position', position, 'view', view)
if redis.call('HGET', KEYS[1], 'cold') then redis.call('HSET', KEYS[3], 'cold', '1') end
redis.call('ZADD', KEYS[4], 0, ARGV[2])
redis.call('HINCRBY', KEYS[5], 'commits', 1)
return 'OK'
"""

# KEYS: head, history, counters, new manifest. ARGV: manifest, position, now, the old view as JSON, new fields.
_MOVE = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 'GONE' end
if redis.call('HGET', KEYS[1], 'manifest') ~= ARGV[1] then return 'HEAD_MOVED' end
if redis.call('HGET', KEYS[1], 'position') ~= ARGV[2] then return 'HEAD_MOVED' end
if not string.match(KEYS[4], ':$') and redis.call('EXISTS', KEYS[4]) == 0 then return 'HEAD_MOVED' end
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0') or 0
local id = ARGV[3]
while redis.call('HEXISTS', KEYS[2], id) == 1 do id = string.format('%.0f', tonumber(id) + 1) end
if ARGV[1] ~= '' then redis.call('HSET', KEYS[2], id, ARGV[4]) end
redis.call('HSET', KEYS[1], 'epoch', string.format('%.0f', math.max(epoch + 1, tonumber(ARGV[3]))), 'parent', '',
  'used_ms', ARGV[3], unpack(ARGV, 5))
redis.call('HDEL', KEYS[1], 'draft', 'draft_position', 'cold')
redis.call('HINCRBY', KEYS[3], 'commits', 1)
return 'OK'
"""

# KEYS: head, marks, counters. ARGV: name, JSON, manifest, position.
MARK = """
if redis.call('HGET', KEYS[1], 'manifest') ~= ARGV[3] then return 'HEAD_MOVED' end
if redis.call('HGET', KEYS[1], 'position') ~= ARGV[4] then return 'HEAD_MOVED' end
local there = redis.call('HGET', KEYS[2], ARGV[1])
if there then
  local same = cjson.decode(there).view == cjson.decode(ARGV[2]).view
  if not same then return 'NAME_TAKEN' end
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('HINCRBY', KEYS[3], 'commits', 1)
return 'OK'
"""

_DELETE = """
local there = redis.call('DEL', KEYS[1])
redis.call('DEL', KEYS[2])
redis.call('DEL', KEYS[3])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('HINCRBY', KEYS[5], 'commits', 1)
return there
"""

HEADS = {
    "open": _OPEN,
    "begin": _BEGIN,
    "touch": _TOUCH,
    "cool": _COOL,
    "commit": _COMMIT,
    "draft": _DRAFT,
    "fork": _FORK,
    "move": _MOVE,
    "delete": _DELETE,
}


def told(answer: bytes, session: str, name: str = "", also: tuple[str, ...] = ()) -> str:
    """OK, or one of `also`; every other answer is raised. `name`: of the bookmark or session that it is about."""
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
