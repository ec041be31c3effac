"""Sources into engine sessions: one Read per chapter or file, a bookmark behind each, resumed from the last one."""

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from services import errors
from services.agent.model import Model, special, text
from services.agent.types import Emit, ReadingResult, SourceView, silent
from services.inference.pb.inference_pb2 import Part
from services.ingest.segments import segments
from services.ingest.types import Chapter


def read_source(
    model: Model, view: SourceView, session_id: str, emit: Emit = silent, start: int = 0, tokens: int = 0
) -> ReadingResult:
    """Reads what the session has not read yet. Call it again after a failure: what was saved is not read twice.

    `start` is what the library believes is done; the engine's bookmarks are the truth and may be ahead or behind.
    `tokens`: of the whole text, when somebody has counted them. StateIncompatible: the session was read in segments
    that are cut otherwise; delete it and read it again, which takes over what is the same.
    """
    began = time.monotonic()
    todo = segments(view)  # type: ignore[arg-type]  # it looks at outline and blocks only
    session = model.open_session(session_id)
    check_cuts(session, todo, view)
    done = segments_done(session, todo, view)
    if done != start:
        emit("reading.resumed", {"segments_done": done, "expected": start})
    progress = Progress(tokens or model.count_tokens([text(view.text)]), session.head.position, emit)
    digest = session.head.digest
    for n in range(done, len(todo)):
        digest = read_segment(model, view, session_id, todo, n, digest, progress)
    last = model.describe_session(session_id)
    seconds, count, head = time.monotonic() - began, len(todo), last.head
    return ReadingResult(
        session_id, head.digest, head.position, count, count, seconds,
        progress.shared, progress.read, last.saved_bytes, last.fingerprint,
    )  # fmt: skip


def check_cuts(session: Any, todo: Sequence[Chapter], view: SourceView) -> None:
    """Every bookmark that the session has of this source must end a segment of today."""
    ours = {mark.name for mark in session.bookmarks if mark.name.startswith(f"{view.id}@")}
    if ours - {bookmark_of(view, segment) for segment in todo}:
        raise errors.StateIncompatible("The reading was cut into other segments; the source must be read again.")


def segments_done(session: Any, todo: Sequence[Chapter], view: SourceView) -> int:
    """How many of the first segments the engine has a bookmark behind."""
    names = {b.name for b in session.bookmarks}
    return next((n for n, segment in enumerate(todo) if bookmark_of(view, segment) not in names), len(todo))


def bookmark_of(view: SourceView, segment: Chapter) -> str:
    """Names the head at a place of a source: how many of its characters were read."""
    return f"{view.id}@{segment.char[1]}"


def bookmark_at(view: SourceView, char: int) -> str | None:
    """The bookmark behind `char`, if a segment ends just there."""
    ends = {segment.char[1]: segment for segment in segments(view)}  # type: ignore[arg-type]
    return bookmark_of(view, ends[char]) if char in ends else None


def read_segment(
    model: Model, view: SourceView, session_id: str, todo: Sequence[Chapter], n: int, digest: str, progress: "Progress"
) -> str:
    """The digest of the head behind it."""
    parts, name, title = parts_of(view, todo[n]), bookmark_of(view, todo[n]), todo[n].title
    label = f"{n + 1}/{len(todo)}"  # for the engine's log, which must not know a title
    with closing(model.read(session_id, parts, bookmark=name, segment=label, expected_digest=digest)) as stream:
        saved = ""
        for message in stream:
            progress.tell(message, title, n, len(todo))
            saved = message.head.digest if message.done else saved
    if not saved:
        raise errors.EngineUnavailable("The engine closed the reading before it was saved.")
    return saved


def parts_of(view: SourceView, segment: Chapter) -> list[Part]:
    """`<|doc|>` before a document, once; `<|file|>` and the path before a file, once."""
    a, b = segment.char
    body = view.text[a:b]
    if view.kind != "repository":
        return [special("doc"), text(body)] if a == 0 else [text(body)]
    goes_on = any(f.char[0] < a < f.char[1] for f in view.files)
    return [text(body)] if goes_on else [special("file"), text(f"{segment.path or segment.title}\n{body}")]


class Progress:
    """Tokens read of all, tokens a second and seconds to go, told to `emit`."""

    def __init__(self, total: int, position: int, emit: Emit):
        self.total, self.start, self.emit, self.began = total, position, emit, time.monotonic()
        self.shared = self.read = 0

    def tell(self, message: Any, title: str, n: int, segments_total: int) -> None:
        position = int(message.position)
        total = max(self.total, position)
        rate = (position - self.start) / max(time.monotonic() - self.began, 1e-3)
        where = {"title": title, "segments_done": n + bool(message.done), "segments_total": segments_total}
        pace = {"rate": round(rate, 1), "eta_s": round((total - position) / rate, 1) if rate > 0 else None}
        counts = {"done": position, "total": total, "durable": int(message.durable_position)}
        self.emit("reading.progress", {"phase": "reading", **where, **counts, **pace, **self.usage_of(message)})

    def usage_of(self, message: Any) -> dict[str, int]:
        """Of the segment that this message ends: tokens taken over and tokens computed."""
        if not message.done:
            return {"shared_tokens": 0, "read_tokens": 0}
        shared, read = int(message.usage.shared_tokens), int(message.usage.read_tokens)
        self.shared, self.read = self.shared + shared, self.read + read
        return {"shared_tokens": shared, "read_tokens": read}


def open_session(model: Model, views: Sequence[SourceView], session_id: str, emit: Emit = silent) -> Any:
    """The user's session as the engine describes it; when it is not there it is made.

    It is a fork of the first source's reading that reads the other sources, built under another name, and appears
    whole: a session that exists has read everything.
    """
    try:
        return model.describe_session(session_id)
    except errors.NotFound:
        return make_session(model, views, session_id, emit)


def make_session(model: Model, views: Sequence[SourceView], session_id: str, emit: Emit) -> Any:
    read = [view for view in views if view.engine_session]
    if not read:
        return model.open_session(session_id)
    if len(read) == 1:
        return fork_reading(model, read[0], session_id, emit)
    return read_together(model, read, session_id, emit)


def fork_reading(model: Model, view: SourceView, session_id: str, emit: Emit) -> Any:
    """At the end of what the view shows: of the whole source, or where `view.upto` cut it."""
    source, name = view.engine_session or "", f"{view.id}@{len(view.text)}"
    there = model.describe_session(source)
    whole = any(mark.name == name and mark.head.position == there.head.position for mark in there.bookmarks)
    if whole:
        renew(model, there, emit)
    return model.fork_session(source, session_id, "" if whole else name)


def renew(model: Model, session: Any, emit: Emit) -> None:
    """A reading that another model or kernel made is made again from its tokens, once, before forks inherit it.

    Decoding one token has the engine take the session up, which stores what it had to compute again.
    """
    if session.fingerprint == model.describe().fingerprint:
        return
    emit("reading.progress", {"phase": "reading again: the model has changed"})
    with closing(model.generate(session.session_id, [Part(special="question")], max_tokens=1, timeout=None)) as stream:
        for _ in stream:
            pass


def read_together(model: Model, views: Sequence[SourceView], session_id: str, emit: Emit) -> Any:
    building = f"{session_id}.building"
    try:
        model.describe_session(building)
    except errors.NotFound:
        fork_reading(model, views[0], building, emit)
    for view in views[1:]:
        read_source(model, view, building, emit)
    made = model.fork_session(building, session_id)
    model.delete_session(building)
    return made
