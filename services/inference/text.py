"""Text to token ids and back, for both tokenizer files we serve.

`tokenizer.json` (Hugging Face, byte-level BPE) and `tiktoken.model` (the released 48B checkpoint). In both, text never
becomes a special token, whatever it spells: specials come by name or by id only.
"""

from __future__ import annotations

import base64
import codecs
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import blake3
import tiktoken
import tokenizers

from services.errors import InvalidInput


class Tokenizer(Protocol):
    specials: dict[str, int]  # "<|doc|>" -> id
    size: int  # ids are below it
    digest: str  # of the files; part of the fingerprint

    def encode(self, text: str) -> list[int]: ...

    def token_bytes(self, token: int) -> bytes: ...


def load_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """`vocab_size` is the embedding's: a tiktoken file names two ids past it, which must never be produced."""
    if (folder / "tokenizer.json").exists():
        return JsonTokenizer(folder / "tokenizer.json", vocab_size)
    if (folder / "tiktoken.model").exists():
        return TiktokenTokenizer(folder / "tiktoken.model", vocab_size)
    raise FileNotFoundError(f"{folder} has neither tokenizer.json nor tiktoken.model")


# --- tokenizer.json ---------------------------------------------------------------------------------------------------

_SPECIAL = re.compile(r"<\|[^|\s]+\|>")


class JsonTokenizer:
    def __init__(self, path: Path, vocab_size: int) -> None:
        self.digest = blake3.blake3(path.read_bytes()).hexdigest()
        self._inner = tokenizers.Tokenizer.from_file(str(path))
        self._inner.encode_special_tokens = True  # "<|doc|>" in a text is seven characters, not a token
        vocab = self._inner.get_vocab(with_added_tokens=True)
        added = {token.content for token in self._inner.get_added_tokens_decoder().values() if token.special}
        self.specials = {name: i for name, i in vocab.items() if name in added or _SPECIAL.fullmatch(name)}
        self.size = vocab_size
        if max(vocab.values()) >= vocab_size:
            raise ValueError(f"{path} has {max(vocab.values()) + 1} tokens, the model {vocab_size}")
        self._bytes = {i: name.encode() if name in self.specials else _unbyte(name) for name, i in vocab.items()}

    def encode(self, text: str) -> list[int]:
        return self._inner.encode(text, add_special_tokens=False).ids

    def token_bytes(self, token: int) -> bytes:
        return self._bytes.get(token, b"")


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's table: printable bytes stand for themselves, the others for characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in printable}
    hidden = (b for b in range(256) if b not in set(printable))
    return table | {chr(0x100 + n): b for n, b in enumerate(hidden)}


_ALPHABET = _byte_alphabet()


def _unbyte(name: str) -> bytes:
    try:
        return bytes(_ALPHABET[c] for c in name)
    except KeyError:
        raise ValueError(f"tokenizer.json is not byte-level: {name!r}") from None


# --- tiktoken.model ---------------------------------------------------------------------------------------------------

# The classes' `&&` is intersection; tiktoken's engine (Rust) knows it. Python's `re` does not, `regex` in V1 mode does.
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
KIMI_SPLIT = "|".join(
    [
        r"[\p{Han}]+",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDING}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDING}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
_KIMI_NAMES = {  # offset from the end of the ranks, where tokenizer_config.json does not say
    0: "[BOS]", 1: "[EOS]", 2: "<|im_end|>", 3: "<|im_user|>", 4: "<|im_assistant|>", 6: "<|start_header_id|>",
    7: "<|end_header_id|>", 9: "[EOT]", 10: "<|im_system|>", 11: "<|tool_calls_section_begin|>",
    12: "<|tool_calls_section_end|>", 13: "<|tool_call_begin|>", 14: "<|tool_call_argument_begin|>",
    15: "<|tool_call_end|>", 17: "<|im_middle|>", 254: "[UNK]", 255: "[PAD]",
}  # fmt: skip
_SLOTS = 256 + 2
_PIECE = 400_000  # characters given to the splitter at once
_RUN = re.compile(r"\s{1,25000}|\S{1,25000}")  # longer runs are cut: the released tokenizer does, and BPE is quadratic


class TiktokenTokenizer:
    def __init__(self, path: Path, vocab_size: int) -> None:
        data = path.read_bytes()
        ranks = _ranks(data)
        named = _named_specials(path.parent / "tokenizer_config.json")
        self.digest = blake3.blake3(data + json.dumps(named, sort_keys=True).encode()).hexdigest()
        self.size = min(len(ranks) + _SLOTS, vocab_size)
        names = {i: _special_name(i, len(ranks), named) for i in range(len(ranks), self.size)}
        self.specials = {name: i for i, name in names.items()}
        self._inner = tiktoken.Encoding(
            path.name, pat_str=KIMI_SPLIT, mergeable_ranks=ranks, special_tokens=self.specials
        )

    def encode(self, text: str) -> list[int]:
        return [i for piece in _cut(text) for i in self._inner.encode_ordinary(piece)]

    def token_bytes(self, token: int) -> bytes:
        return self._inner.decode_single_token_bytes(token) if 0 <= token < self.size else b""


def _ranks(data: bytes) -> dict[bytes, int]:
    rows = (line.split() for line in data.splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in rows}
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError("tiktoken.model: ranks are not 0..n-1")
    return ranks


def _named_specials(path: Path) -> dict[int, str]:
    config = json.loads(path.read_text()) if path.exists() else {}
    return {int(i): token["content"] for i, token in config.get("added_tokens_decoder", {}).items()}


def _special_name(token: int, base: int, named: dict[int, str]) -> str:
    fallback = {} if named else _KIMI_NAMES
    return named.get(token) or fallback.get(token - base) or f"<|reserved_token_{token}|>"


def _cut(text: str) -> Iterable[str]:
    for start in range(0, len(text), _PIECE):
        piece = text[start : start + _PIECE]
        # Cutting at every run would change the tokens; only cut where a run is over-long.
        runs = _RUN.findall(piece) if len(piece) > 25_000 else [piece]
        yield from _joined(runs) if len(runs) > 1 else runs


def _joined(runs: list[str]) -> Iterable[str]:
    """Runs glued together again, except between two pieces of one over-long run."""
    held: list[str] = []
    for run in runs:
        if held and held[-1][-1].isspace() == run[0].isspace():
            yield "".join(held)
            held = []
        held.append(run)
    yield "".join(held)


# --- parts to ids -----------------------------------------------------------------------------------------------------


def special_id(tokenizer: Tokenizer, name: str) -> int:
    """A special by any of its spellings: end, <|end|>, [EOS]."""
    for spelling in (name, f"<|{name}|>", f"[{name}]", f"[{name.upper()}]"):
        if spelling in tokenizer.specials:
            return tokenizer.specials[spelling]
    raise InvalidInput(f"no special token {name!r} in this tokenizer", special=name)


def encode_part(tokenizer: Tokenizer, part: Any) -> list[int]:
    kind = part.WhichOneof("kind")
    if kind == "text":
        return tokenizer.encode(part.text)
    if kind == "special":
        return [special_id(tokenizer, part.special)]
    ids = list(part.tokens.ids)
    if any(i >= tokenizer.size for i in ids):
        raise InvalidInput(f"token ids go up to {tokenizer.size - 1}", largest=max(ids))
    return ids


def encode_parts(tokenizer: Tokenizer, parts: Iterable[Any]) -> list[int]:
    return [i for part in parts for i in encode_part(tokenizer, part)]


def text_bytes(tokenizer: Tokenizer, ids: Iterable[int]) -> bytes:
    """What the ids spell; specials spell nothing."""
    special = set(tokenizer.specials.values())
    return b"".join(tokenizer.token_bytes(i) for i in ids if i not in special)


# --- ids to text ------------------------------------------------------------------------------------------------------


class Detokenizer:
    """Ids in, complete characters out: a character's bytes may be spread over several tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._names = {i: name for name, i in tokenizer.specials.items()}
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def special(self, token: int) -> str:
        """The short name, quote for <|quote|>; empty for a token of text."""
        return self._names.get(token, "").removeprefix("<|").removesuffix("|>").strip("[]")

    def feed(self, token: int) -> str:
        """The characters that this token of text completes."""
        return self._utf8.decode(self._tokenizer.token_bytes(token))

    def flush(self) -> str:
        """At the end or before a special: what never became a character shows as U+FFFD."""
        return self._utf8.decode(b"", final=True)


class StopStrings:
    """Holds back what may still grow into a stop string; once one is there, the text ends before it."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.released = 0  # characters given out so far
        self.stopped = False

    def feed(self, text: str) -> str:
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.stopped = True
            return self._release(min(found))
        return self._release(len(self._held) - self._pending())

    def flush(self) -> str:
        return "" if self.stopped else self._release(len(self._held))

    def _pending(self) -> int:
        """The longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        sizes = range(min(longest, len(self._held)), 0, -1)
        return next((n for n in sizes if any(stop.startswith(self._held[-n:]) for stop in self._stops)), 0)

    def _release(self, count: int) -> str:
        out, self._held = self._held[:count], self._held[count:]
        self.released += len(out)
        return out
