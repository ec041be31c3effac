from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason

class Part(_message.Message):
    __slots__ = ("text", "special", "tokens")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SPECIAL_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    text: str
    special: str
    tokens: TokenIds
    def __init__(self, text: _Optional[str] = ..., special: _Optional[str] = ..., tokens: _Optional[_Union[TokenIds, _Mapping]] = ...) -> None: ...

class TokenIds(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("model", "fingerprint", "parameters", "context_tokens", "grid_tokens", "page_tokens", "page_bytes", "snapshot_bytes", "slots_total", "slots_free", "pages_total", "pages_free", "device", "special_tokens")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GRID_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_BYTES_FIELD_NUMBER: _ClassVar[int]
    SLOTS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FREE_FIELD_NUMBER: _ClassVar[int]
    PAGES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    PAGES_FREE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SPECIAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    model: str
    fingerprint: str
    parameters: int
    context_tokens: int
    grid_tokens: int
    page_tokens: int
    page_bytes: int
    snapshot_bytes: int
    slots_total: int
    slots_free: int
    pages_total: int
    pages_free: int
    device: str
    special_tokens: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model: _Optional[str] = ..., fingerprint: _Optional[str] = ..., parameters: _Optional[int] = ..., context_tokens: _Optional[int] = ..., grid_tokens: _Optional[int] = ..., page_tokens: _Optional[int] = ..., page_bytes: _Optional[int] = ..., snapshot_bytes: _Optional[int] = ..., slots_total: _Optional[int] = ..., slots_free: _Optional[int] = ..., pages_total: _Optional[int] = ..., pages_free: _Optional[int] = ..., device: _Optional[str] = ..., special_tokens: _Optional[_Iterable[str]] = ...) -> None: ...

class CountTokensRequest(_message.Message):
    __slots__ = ("parts",)
    PARTS_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[Part]
    def __init__(self, parts: _Optional[_Iterable[_Union[Part, _Mapping]]] = ...) -> None: ...

class CountTokensReply(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    def __init__(self, tokens: _Optional[int] = ...) -> None: ...

class Head(_message.Message):
    __slots__ = ("position", "digest", "epoch")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    position: int
    digest: str
    epoch: int
    def __init__(self, position: _Optional[int] = ..., digest: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class Bookmark(_message.Message):
    __slots__ = ("name", "head", "created_ms")
    NAME_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    name: str
    head: Head
    created_ms: int
    def __init__(self, name: _Optional[str] = ..., head: _Optional[_Union[Head, _Mapping]] = ..., created_ms: _Optional[int] = ...) -> None: ...

class Session(_message.Message):
    __slots__ = ("session_id", "head", "segments", "saved_bytes", "bookmarks", "live", "fingerprint", "created_ms")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    SAVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    BOOKMARKS_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    head: Head
    segments: int
    saved_bytes: int
    bookmarks: _containers.RepeatedCompositeFieldContainer[Bookmark]
    live: bool
    fingerprint: str
    created_ms: int
    def __init__(self, session_id: _Optional[str] = ..., head: _Optional[_Union[Head, _Mapping]] = ..., segments: _Optional[int] = ..., saved_bytes: _Optional[int] = ..., bookmarks: _Optional[_Iterable[_Union[Bookmark, _Mapping]]] = ..., live: _Optional[bool] = ..., fingerprint: _Optional[str] = ..., created_ms: _Optional[int] = ...) -> None: ...

class OpenSessionRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class SessionRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class ListSessionsRequest(_message.Message):
    __slots__ = ("limit", "after")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    limit: int
    after: str
    def __init__(self, limit: _Optional[int] = ..., after: _Optional[str] = ...) -> None: ...

class ListSessionsReply(_message.Message):
    __slots__ = ("sessions",)
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[Session]
    def __init__(self, sessions: _Optional[_Iterable[_Union[Session, _Mapping]]] = ...) -> None: ...

class DeleteSessionRequest(_message.Message):
    __slots__ = ("session_id", "later")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    LATER_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    later: bool
    def __init__(self, session_id: _Optional[str] = ..., later: _Optional[bool] = ...) -> None: ...

class DeleteSessionReply(_message.Message):
    __slots__ = ("freed_bytes",)
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    freed_bytes: int
    def __init__(self, freed_bytes: _Optional[int] = ...) -> None: ...

class ForkSessionRequest(_message.Message):
    __slots__ = ("session_id", "new_session_id", "bookmark")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    NEW_SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    BOOKMARK_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    new_session_id: str
    bookmark: str
    def __init__(self, session_id: _Optional[str] = ..., new_session_id: _Optional[str] = ..., bookmark: _Optional[str] = ...) -> None: ...

class RewindSessionRequest(_message.Message):
    __slots__ = ("session_id", "bookmark", "position", "digest")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    BOOKMARK_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    bookmark: str
    position: int
    digest: str
    def __init__(self, session_id: _Optional[str] = ..., bookmark: _Optional[str] = ..., position: _Optional[int] = ..., digest: _Optional[str] = ...) -> None: ...

class BookmarkSessionRequest(_message.Message):
    __slots__ = ("session_id", "name")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    name: str
    def __init__(self, session_id: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class PlanRequest(_message.Message):
    __slots__ = ("session_id", "part", "segment_end")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_END_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    part: Part
    segment_end: bool
    def __init__(self, session_id: _Optional[str] = ..., part: _Optional[_Union[Part, _Mapping]] = ..., segment_end: _Optional[bool] = ...) -> None: ...

class PlanReply(_message.Message):
    __slots__ = ("tokens", "known_tokens", "known_segments", "from_session", "from_bookmark", "seconds")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    FROM_SESSION_FIELD_NUMBER: _ClassVar[int]
    FROM_BOOKMARK_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    known_tokens: int
    known_segments: int
    from_session: str
    from_bookmark: str
    seconds: float
    def __init__(self, tokens: _Optional[int] = ..., known_tokens: _Optional[int] = ..., known_segments: _Optional[int] = ..., from_session: _Optional[str] = ..., from_bookmark: _Optional[str] = ..., seconds: _Optional[float] = ...) -> None: ...

class ReadRequest(_message.Message):
    __slots__ = ("header", "part")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    header: ReadHeader
    part: Part
    def __init__(self, header: _Optional[_Union[ReadHeader, _Mapping]] = ..., part: _Optional[_Union[Part, _Mapping]] = ...) -> None: ...

class ReadHeader(_message.Message):
    __slots__ = ("session_id", "expected_digest", "bookmark", "segment")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_DIGEST_FIELD_NUMBER: _ClassVar[int]
    BOOKMARK_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    expected_digest: str
    bookmark: str
    segment: str
    def __init__(self, session_id: _Optional[str] = ..., expected_digest: _Optional[str] = ..., bookmark: _Optional[str] = ..., segment: _Optional[str] = ...) -> None: ...

class ReadProgress(_message.Message):
    __slots__ = ("segment_tokens_done", "segment_tokens_total", "position", "durable_position", "tokens_per_second", "done", "head", "usage")
    SEGMENT_TOKENS_DONE_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    DURABLE_POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    segment_tokens_done: int
    segment_tokens_total: int
    position: int
    durable_position: int
    tokens_per_second: float
    done: bool
    head: Head
    usage: Usage
    def __init__(self, segment_tokens_done: _Optional[int] = ..., segment_tokens_total: _Optional[int] = ..., position: _Optional[int] = ..., durable_position: _Optional[int] = ..., tokens_per_second: _Optional[float] = ..., done: _Optional[bool] = ..., head: _Optional[_Union[Head, _Mapping]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_p", "top_k", "seed", "max_tokens", "stop", "stop_specials", "logprobs", "copy")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    STOP_SPECIALS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    COPY_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_p: float
    top_k: int
    seed: int
    max_tokens: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    stop_specials: _containers.RepeatedScalarFieldContainer[str]
    logprobs: bool
    copy: Copy
    def __init__(self, temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., seed: _Optional[int] = ..., max_tokens: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., stop_specials: _Optional[_Iterable[str]] = ..., logprobs: _Optional[bool] = ..., copy: _Optional[_Union[Copy, _Mapping]] = ...) -> None: ...

class Copy(_message.Message):
    __slots__ = ("open", "close", "session", "parts", "max_tokens", "near")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NEAR_FIELD_NUMBER: _ClassVar[int]
    open: str
    close: str
    session: bool
    parts: _containers.RepeatedScalarFieldContainer[int]
    max_tokens: int
    near: _containers.RepeatedCompositeFieldContainer[Stretch]
    def __init__(self, open: _Optional[str] = ..., close: _Optional[str] = ..., session: _Optional[bool] = ..., parts: _Optional[_Iterable[int]] = ..., max_tokens: _Optional[int] = ..., near: _Optional[_Iterable[_Union[Stretch, _Mapping]]] = ...) -> None: ...

class Stretch(_message.Message):
    __slots__ = ("prompt", "number", "start", "end", "position")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    prompt: bool
    number: int
    start: int
    end: int
    position: int
    def __init__(self, prompt: _Optional[bool] = ..., number: _Optional[int] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., position: _Optional[int] = ...) -> None: ...

class Quote(_message.Message):
    __slots__ = ("token_ids", "text", "occurrences", "count", "closed")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    OCCURRENCES_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    text: str
    occurrences: _containers.RepeatedCompositeFieldContainer[Stretch]
    count: int
    closed: bool
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., text: _Optional[str] = ..., occurrences: _Optional[_Iterable[_Union[Stretch, _Mapping]]] = ..., count: _Optional[int] = ..., closed: _Optional[bool] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("session_id", "expected_digest", "prompt", "sampling", "keep", "bookmark", "forced")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    BOOKMARK_FIELD_NUMBER: _ClassVar[int]
    FORCED_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    expected_digest: str
    prompt: _containers.RepeatedCompositeFieldContainer[Part]
    sampling: Sampling
    keep: bool
    bookmark: str
    forced: _containers.RepeatedCompositeFieldContainer[Part]
    def __init__(self, session_id: _Optional[str] = ..., expected_digest: _Optional[str] = ..., prompt: _Optional[_Iterable[_Union[Part, _Mapping]]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., keep: _Optional[bool] = ..., bookmark: _Optional[str] = ..., forced: _Optional[_Iterable[_Union[Part, _Mapping]]] = ...) -> None: ...

class GenerateChunk(_message.Message):
    __slots__ = ("sequence", "text", "token_ids", "logprobs", "special", "finish_reason", "usage", "head", "durable_position", "quotes")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    SPECIAL_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    DURABLE_POSITION_FIELD_NUMBER: _ClassVar[int]
    QUOTES_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    text: str
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    special: str
    finish_reason: FinishReason
    usage: Usage
    head: Head
    durable_position: int
    quotes: _containers.RepeatedCompositeFieldContainer[Quote]
    def __init__(self, sequence: _Optional[int] = ..., text: _Optional[str] = ..., token_ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[float]] = ..., special: _Optional[str] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., head: _Optional[_Union[Head, _Mapping]] = ..., durable_position: _Optional[int] = ..., quotes: _Optional[_Iterable[_Union[Quote, _Mapping]]] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("prompt_tokens", "read_tokens", "resumed_tokens", "completion_tokens", "restore_ms", "read_ms", "decode_ms", "first_token_ms", "recomputed", "shared_tokens")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    READ_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RESUMED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RESTORE_MS_FIELD_NUMBER: _ClassVar[int]
    READ_MS_FIELD_NUMBER: _ClassVar[int]
    DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    RECOMPUTED_FIELD_NUMBER: _ClassVar[int]
    SHARED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: int
    read_tokens: int
    resumed_tokens: int
    completion_tokens: int
    restore_ms: float
    read_ms: float
    decode_ms: float
    first_token_ms: float
    recomputed: bool
    shared_tokens: int
    def __init__(self, prompt_tokens: _Optional[int] = ..., read_tokens: _Optional[int] = ..., resumed_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., restore_ms: _Optional[float] = ..., read_ms: _Optional[float] = ..., decode_ms: _Optional[float] = ..., first_token_ms: _Optional[float] = ..., recomputed: _Optional[bool] = ..., shared_tokens: _Optional[int] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("session_id", "prompt", "continuation")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    CONTINUATION_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    prompt: _containers.RepeatedCompositeFieldContainer[Part]
    continuation: _containers.RepeatedCompositeFieldContainer[Part]
    def __init__(self, session_id: _Optional[str] = ..., prompt: _Optional[_Iterable[_Union[Part, _Mapping]]] = ..., continuation: _Optional[_Iterable[_Union[Part, _Mapping]]] = ...) -> None: ...

class ScoreReply(_message.Message):
    __slots__ = ("logprob", "tokens", "bytes", "token_logprobs", "greedy")
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    TOKEN_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    GREEDY_FIELD_NUMBER: _ClassVar[int]
    logprob: float
    tokens: int
    bytes: int
    token_logprobs: _containers.RepeatedScalarFieldContainer[float]
    greedy: bool
    def __init__(self, logprob: _Optional[float] = ..., tokens: _Optional[int] = ..., bytes: _Optional[int] = ..., token_logprobs: _Optional[_Iterable[float]] = ..., greedy: _Optional[bool] = ...) -> None: ...

class VaultShowRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class VaultSessionRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class VaultTier(_message.Message):
    __slots__ = ("name", "where", "blocks", "bytes", "limit_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    where: str
    blocks: int
    bytes: int
    limit_bytes: int
    def __init__(self, name: _Optional[str] = ..., where: _Optional[str] = ..., blocks: _Optional[int] = ..., bytes: _Optional[int] = ..., limit_bytes: _Optional[int] = ...) -> None: ...

class VaultReport(_message.Message):
    __slots__ = ("tiers", "sessions", "cold_sessions", "quota_bytes", "used_bytes", "durability", "key_id", "redis_used_bytes", "redis_max_bytes", "damaged")
    TIERS_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    COLD_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    QUOTA_BYTES_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    REDIS_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    REDIS_MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FIELD_NUMBER: _ClassVar[int]
    tiers: _containers.RepeatedCompositeFieldContainer[VaultTier]
    sessions: int
    cold_sessions: int
    quota_bytes: int
    used_bytes: int
    durability: str
    key_id: str
    redis_used_bytes: int
    redis_max_bytes: int
    damaged: int
    def __init__(self, tiers: _Optional[_Iterable[_Union[VaultTier, _Mapping]]] = ..., sessions: _Optional[int] = ..., cold_sessions: _Optional[int] = ..., quota_bytes: _Optional[int] = ..., used_bytes: _Optional[int] = ..., durability: _Optional[str] = ..., key_id: _Optional[str] = ..., redis_used_bytes: _Optional[int] = ..., redis_max_bytes: _Optional[int] = ..., damaged: _Optional[int] = ...) -> None: ...

class VaultFinding(_message.Message):
    __slots__ = ("session_id", "block", "kind", "tier", "what", "mended", "checked", "total", "done")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    MENDED_FIELD_NUMBER: _ClassVar[int]
    CHECKED_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    block: str
    kind: str
    tier: str
    what: str
    mended: str
    checked: int
    total: int
    done: bool
    def __init__(self, session_id: _Optional[str] = ..., block: _Optional[str] = ..., kind: _Optional[str] = ..., tier: _Optional[str] = ..., what: _Optional[str] = ..., mended: _Optional[str] = ..., checked: _Optional[int] = ..., total: _Optional[int] = ..., done: _Optional[bool] = ...) -> None: ...

class VaultChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class VaultImportRequest(_message.Message):
    __slots__ = ("session_id", "data")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    data: bytes
    def __init__(self, session_id: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class VaultCollectReply(_message.Message):
    __slots__ = ("freed_bytes", "freed_cold_bytes")
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    FREED_COLD_BYTES_FIELD_NUMBER: _ClassVar[int]
    freed_bytes: int
    freed_cold_bytes: int
    def __init__(self, freed_bytes: _Optional[int] = ..., freed_cold_bytes: _Optional[int] = ...) -> None: ...

class VaultMovedReply(_message.Message):
    __slots__ = ("sessions", "bytes")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    sessions: int
    bytes: int
    def __init__(self, sessions: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class VaultRecoverReply(_message.Message):
    __slots__ = ("sessions", "skipped")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    sessions: int
    skipped: int
    def __init__(self, sessions: _Optional[int] = ..., skipped: _Optional[int] = ...) -> None: ...

class VaultHistoryReply(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[VaultHistoryEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[VaultHistoryEntry, _Mapping]]] = ...) -> None: ...

class VaultHistoryEntry(_message.Message):
    __slots__ = ("head", "left_ms", "reason", "until_ms")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    LEFT_MS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    UNTIL_MS_FIELD_NUMBER: _ClassVar[int]
    head: Head
    left_ms: int
    reason: str
    until_ms: int
    def __init__(self, head: _Optional[_Union[Head, _Mapping]] = ..., left_ms: _Optional[int] = ..., reason: _Optional[str] = ..., until_ms: _Optional[int] = ...) -> None: ...
