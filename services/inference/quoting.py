"""One call's quotes: what the engine is told about them, and where they stood in the end."""

from __future__ import annotations

from collections.abc import Sequence

from engine import Copying
from engine.copying import quotes_in
from services import errors
from services.inference.pb import inference_pb2 as pb
from services.inference.sources import Piece, Source, Sources
from services.inference.text import Tokenizer, special_id, text_bytes
from services.vault.heads import Head

MOST = 64  # occurrences that are told of a quote
TOKENS = 128  # of a quote, where the caller does not say


class Quoting:
    def __init__(self, asked: pb.Copy, tokenizer: Tokenizer, sources: Sequence[Source]) -> None:
        self._tokenizer, self._sources = tokenizer, sources
        if {near.prompt for near in asked.near} - {source.prompt for source in sources}:
            raise errors.InvalidInput("copy.near: a stretch of what may not be quoted", field="copy.near")
        self._near = [[s.tokens(near) for near in asked.near if near.prompt == s.prompt] for s in sources]
        opening, closing = _mark(tokenizer, asked.open, "quote"), _mark(tokenizer, asked.close, "/quote")
        try:
            indexed = tuple(source.occurrences for source in sources)
            self.copying = Copying(indexed, opening, closing, asked.max_tokens or TOKENS)
        except ValueError as error:
            raise errors.InvalidInput(f"copy: {error}", field="copy") from error

    def check(self, forced: Sequence[int]) -> None:
        try:
            self.copying.check(forced)
        except ValueError as error:
            raise errors.InvalidInput(str(error), field="forced") from error

    def found(self, ids: Sequence[int]) -> list[pb.Quote]:
        marks = quotes_in(ids, self.copying.open, self.copying.close)
        return [self._quote(ids[first:end], end < len(ids)) for first, end in marks]

    def _quote(self, ids: Sequence[int], closed: bool) -> pb.Quote:
        quote = pb.Quote(token_ids=ids, text=text_bytes(self._tokenizer, ids).decode(errors="replace"), closed=closed)
        for source, near in zip(self._sources, self._near, strict=True) if ids else ():
            told, count = source.found(ids, near, MOST - len(quote.occurrences))
            quote.occurrences.extend(told)
            quote.count += count
        return quote


def _mark(tokenizer: Tokenizer, name: str, default: str) -> int:
    """A special token; or, where it is named, a text that is one token: a tokenizer may have no special for it."""
    try:
        return special_id(tokenizer, name or default)
    except errors.InvalidInput:
        ids = tokenizer.encode(name)
        if len(ids) != 1:
            raise
        return ids[0]


def quoting(
    asked: pb.Copy,
    tokenizer: Tokenizer,
    sources: Sources,
    prompt: Sequence[pb.Part],
    parts: Sequence[list[int]],
    tenant: str,
    head: Head,
) -> Quoting:
    """``parts``: the prompt's in tokens."""
    found = []
    if asked.parts:
        shown = [_shown(number, prompt, parts) for number in sorted(set(asked.parts))]
        found.append(Source(shown, sources.letters, prompt=True))
    if asked.session:
        if not head.session:
            raise errors.InvalidInput("copy.session needs a session_id", field="copy.session")
        found.append(sources.of(tenant, head))
    return Quoting(asked, tokenizer, found)


def _shown(number: int, prompt: Sequence[pb.Part], parts: Sequence[list[int]]) -> Piece:
    if number >= len(parts):
        raise errors.InvalidInput(f"copy.parts: {number}; the prompt has {len(parts)} parts", field="copy.parts")
    if prompt[number].special:
        raise errors.InvalidInput(
            f"copy.parts: {number} is the special token {prompt[number].special!r}, no text", field="copy.parts"
        )
    return Piece(number, 0, parts[number])
