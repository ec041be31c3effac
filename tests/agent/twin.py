"""An in-memory twin of services.inference.client.InferenceClient, and views made from strings.

The twin keeps what each session has read as text with specials shown, and answers from a script: a function from the
whole context to pieces, where "<|quote|>" and its kind are specials and everything else is text. It does not hold the
script's quotes to the source, but tells where they stand, as the engine does.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from types import SimpleNamespace as Reply

from services import errors
from services.agent.types import SourceView
from services.inference.pb.inference_pb2 import Copy, Part, Stretch
from services.ingest.types import Block, Chapter, File, Symbol

Script = Callable[[str], list[str]]
Source = tuple[bool, int, str]  # of the prompt or of the session, which part or segment, its text


def shown(parts: Iterable[Part]) -> str:
    return "".join(f"<|{p.special}|>" if p.WhichOneof("kind") == "special" else p.text for p in parts)


@dataclass
class Reading:
    segments: list[str] = field(default_factory=list)
    bookmarks: dict[str, int] = field(default_factory=dict)
    made_by: str = "twin"

    def head(self) -> Reply:
        digest = hashlib.blake2b("\0".join(self.segments).encode()).hexdigest()[:16]
        return Reply(position=sum(map(len, self.segments)), digest=digest, epoch=0)


@dataclass
class Twin:
    script: Script = lambda context: ["<|none|>", "<|end|>"]
    probability: float = 0.95  # of every token the script says
    break_at: str = ""  # a read whose text holds this fails once
    sessions: dict[str, Reading] = field(default_factory=dict)
    generated: list[tuple[str, str]] = field(default_factory=list)  # (session, prompt)
    reads: list[tuple[str, str]] = field(default_factory=list)

    def named(self, session_id: str) -> Reading:
        if session_id not in self.sessions:
            raise errors.NotFound(session_id)
        return self.sessions[session_id]

    def described(self, session_id: str) -> Reply:
        reading = self.named(session_id)
        marks = [Reply(name=name, head=Reading(reading.segments[:n]).head()) for name, n in reading.bookmarks.items()]
        return Reply(session_id=session_id, head=reading.head(), segments=len(reading.segments), saved_bytes=1,
                     bookmarks=marks, fingerprint=reading.made_by)  # fmt: skip

    def describe(self) -> Reply:
        return Reply(fingerprint="twin")

    def describe_session(self, session_id: str) -> Reply:
        return self.described(session_id)

    def open_session(self, session_id: str) -> Reply:
        self.sessions.setdefault(session_id, Reading())
        return self.described(session_id)

    def delete_session(self, session_id: str, later: bool = False) -> int:
        self.named(session_id)
        del self.sessions[session_id]
        return 0

    def fork_session(self, session_id: str, new_session_id: str, bookmark: str = "") -> Reply:
        source = self.named(session_id)
        upto = source.bookmarks[bookmark] if bookmark else len(source.segments)
        self.sessions[new_session_id] = Reading(source.segments[:upto])
        return self.described(new_session_id)

    def count_tokens(self, parts: Iterable[Part]) -> int:
        return len(shown(parts))

    def plan(self, session_id: str, segments: Iterable[Iterable[Part]]) -> Reply:
        """Known are the first segments that some session has read."""
        wanted = [*(self.named(session_id).segments if session_id else []), *(shown(parts) for parts in segments)]
        known, of = self.known(wanted)
        marks = self.sessions[of].bookmarks if of else {}
        mark = max((name for name, upto in marks.items() if upto <= known), key=lambda name: marks[name], default="")
        sizes = [len(words) for words in wanted]
        return Reply(tokens=sum(sizes), known_tokens=sum(sizes[:known]), known_segments=known, from_session=of,
                     from_bookmark=mark, seconds=sum(sizes[known:]) / 100)  # fmt: skip

    def known(self, wanted: list[str], without: str = "") -> tuple[int, str]:
        """How many of the segments another session has read, and which."""
        same = lambda one: sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, wanted, strict=False)))  # noqa: E731
        counts = {name: same(one.segments) for name, one in self.sessions.items() if name != without}
        best = max(counts, key=lambda name: counts[name], default="")
        return (counts[best], best) if best and counts[best] else (0, "")

    def read(self, session_id: str, parts: Iterable[Part], *, bookmark: str = "", segment: str = "",
             expected_digest: str = "", timeout: float | None = None) -> Iterator[Reply]:  # fmt: skip
        reading, words = self.named(session_id), shown(parts)
        if bookmark in reading.bookmarks:
            raise errors.AlreadyExists(bookmark)
        if expected_digest and reading.head().digest != expected_digest:
            raise errors.HeadMoved(session_id)
        if self.break_at and self.break_at in words:
            self.break_at = ""
            raise errors.EngineUnavailable("gone")
        position = reading.head().position
        yield Reply(position=position + len(words) // 2, durable_position=position, done=False)
        reading.segments.append(words)
        reading.bookmarks.update({bookmark: len(reading.segments)} if bookmark else {})
        self.reads.append((session_id, words))
        shared = self.known(reading.segments, session_id)[0] >= len(reading.segments)
        head, usage = reading.head(), usage_of(0)
        usage.shared_tokens, usage.read_tokens = (len(words), 0) if shared else (0, len(words))
        yield Reply(position=head.position, durable_position=head.position, done=True, head=head, usage=usage)

    def generate(self, session_id: str, prompt: Iterable[Part], *, keep: bool = False, bookmark: str = "",
                 forced: Iterable[Part] = (), expected_digest: str = "", timeout: float | None = 600.0,
                 **sampling: object) -> Iterator[Reply]:  # fmt: skip
        asked, opening = shown(prompt), shown(forced)
        self.generated.append((session_id, asked + opening))
        segments = self.named(session_id).segments if session_id else []
        before = "".join(segments)
        if session_id:
            self.named(session_id).made_by = "twin"  # as the engine does with a reading that it took up
        sources = sources_of(sampling.get("copy"), segments, list(prompt))
        pieces, likely = self.script(before + asked), self.probability
        if opening and pieces[0] != opening:
            pieces, likely = [opening, held(sources), "<|/quote|>", "<|end|>"], 1 - likely
        return self.say(pieces, 1.5 if session_id else 0.0, sources, likely)

    def say(self, pieces: list[str], restore_ms: float = 0.0, sources: Sequence[Source] = (),
            first: float = 0.95) -> Iterator[Reply]:  # fmt: skip
        """`first`: the probability of the first piece."""
        for n, piece in enumerate(pieces):
            name = re.fullmatch(r"<\|(.+)\|>", piece)
            likely = self.probability if n else first
            yield Reply(text="" if name else piece, special=name[1] if name else "", finish_reason=0,
                        token_ids=[1], logprobs=[math.log(likely)])  # fmt: skip
        usage = usage_of(len(pieces), restore_ms)
        quotes = [stands(words, sources) for before, words in pairwise(pieces) if before == "<|quote|>"]
        yield Reply(text="", special="", finish_reason=1, token_ids=[], logprobs=[], usage=usage, quotes=quotes)


def sources_of(copy: object, segments: Sequence[str], prompt: Sequence[Part]) -> list[Source]:
    """What a request lets be quoted: what the session has read but for its turns, then parts of the prompt."""
    if not isinstance(copy, Copy):
        return []
    plain = [re.sub(r"<\|.*?\|>", "", words) for words in segments]
    read = [(False, n, plain[n]) for n, words in enumerate(segments) if not re.match(r"<\|(question|find)\|>", words)]
    return [*(read if copy.session else []), *((True, n, prompt[n].text) for n in copy.parts)]


def held(sources: Sequence[Source]) -> str:
    """What is said where a quote is forced on a script that has none: something that may be quoted."""
    return next((found[0] for _, _, plain in sources if (found := re.search(r"\w+", plain))), "")


def stands(words: str, sources: Sequence[Source]) -> Reply:
    """A quote as the engine tells it: every place."""
    found = [
        Stretch(prompt=prompt, number=number, start=match.start(), end=match.start() + len(words))
        for prompt, number, plain in sources
        for match in re.finditer(f"(?={re.escape(words)})", plain)
    ]
    return Reply(occurrences=found, count=len(found))


def usage_of(completion: int, restore_ms: float = 0.0) -> Reply:
    times = {"restore_ms": restore_ms, "read_ms": 2.0, "decode_ms": 3.0, "first_token_ms": 4.0}
    return Reply(
        prompt_tokens=10, read_tokens=5, resumed_tokens=7, completion_tokens=completion, shared_tokens=0, **times
    )


def quoting(*words: str) -> Script:
    return lambda context: [piece for w in words for piece in ("<|quote|>", w, "<|/quote|>")] + ["<|end|>"]


def book(text: str, source_id: str = "doc_a", session: str | None = "src-doc_a") -> SourceView:
    """Paragraphs to blocks, `## ` lines to chapters."""
    edges = [0, *(m.end() for m in re.finditer(r"\n\s*\n", text)), len(text)]
    starts = [m.start() for m in re.finditer(r"^## ", text, re.M)] or [0]
    tops = [0, *starts[1:], len(text)]
    line = lambda at: 1 + text.count("\n", 0, at)  # noqa: E731
    blocks, outline = [], []
    for a, b in pairwise(tops):
        title = text[max(a, starts[len(outline)]) : b].split("\n", 1)[0].lstrip("# ")
        outline.append(Chapter(title, 1, (a, b), (line(a), line(b - 1))))
    for a, b in pairwise(edges):
        if a < b:
            chapter = max(n for n, top in enumerate(tops[:-1]) if top <= a)
            kind = "heading" if text[a:b].startswith("#") else "paragraph"
            blocks.append(Block(len(blocks), kind, text[a:b], (a, b), (line(a), line(b - 1)), None, None, chapter))
    return SourceView(source_id, "document", "A book", text, blocks, outline, engine_session=session)


def repository(files: dict[str, str], source_id: str = "rep_a") -> SourceView:
    """Python files whose functions begin with `def`."""
    view = SourceView(source_id, "repository", "A repository", "", [], engine_session="src-rep_a")
    for path, code in sorted(files.items()):
        at, lines = len(view.text), code.count("\n")
        view.text += code
        char, line = (at, at + len(code)), (1, lines)
        view.blocks.append(Block(len(view.blocks), "code", code, char, line, None, path, len(view.outline)))
        view.outline.append(Chapter(path, 1, char, line, None, path))
        view.files.append(File(path, "python", char, lines, ""))
        for found in re.finditer(r"(?:^@\w+\n)?^(?:class|def) (\w+).*?(?=^\S|\Z)", code, re.M | re.S):
            first = 1 + code.count("\n", 0, found.start())
            span = at + found.start(), at + found.end()
            signature = found[0].split("\n")[0]
            view.symbols.append(
                Symbol(found[1], "function", path, (first, first + found[0].count("\n")), span, signature)
            )
    return view
