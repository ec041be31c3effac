"""What may be quoted: a session's segments or a prompt's parts, as token ids and as the characters that they spell."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine import Occurrences
from engine.occurrences import SEAM
from services import errors
from services.inference.pb import inference_pb2 as pb
from services.inference.text import Tokenizer
from services.vault.heads import Head
from services.vault.manifest import Manifest, Segment
from services.vault.vault import Vault

NO_SOURCE = ("turn", "prompt", "answer")  # labels of what a session kept of its conversation
KEPT_BYTES = 256 << 20  # 16 bytes a token: 16 million tokens of sources


@dataclass(frozen=True)
class Letters:
    """Of every token, [vocab]: whether a character begins with it, how many do, whether it is a special token, and
    which token says the same behind a space (-1: none)."""

    begins: np.ndarray
    count: np.ndarray
    special: np.ndarray
    spaced: np.ndarray


def letters_of(tokenizer: Tokenizer) -> Letters:
    """From UTF-8's bytes: one of 0x80 to 0xBF goes on with a character, any other begins one."""
    special = np.zeros(tokenizer.size, bool)
    special[list(tokenizer.specials.values())] = True
    spelled = [b"" if special[i] else tokenizer.token_bytes(i) for i in range(tokenizer.size)]
    begins = [bool(data) and not _inside(data[0]) for data in spelled]
    count = [sum(not _inside(byte) for byte in data) for data in spelled]
    ids = {data: i for i, data in enumerate(spelled) if data}
    spaced = [ids.get(b" " + data, -1) if data else -1 for data in spelled]
    return Letters(np.array(begins), np.array(count, np.int32), special, np.array(spaced, np.int32))


def _inside(byte: int) -> bool:
    return 0x80 <= byte < 0xC0


@dataclass(frozen=True)
class Piece:
    """A segment of the session, or a part of the prompt, that may be quoted."""

    number: int
    position: int  # of its first token: in the session, or in the part
    ids: Sequence[int] | np.ndarray


class Source:
    """Pieces as one source: seams between them and at special tokens."""

    def __init__(self, pieces: Sequence[Piece], letters: Letters, prompt: bool = False) -> None:
        self.pieces, self.prompt = list(pieces), prompt
        sizes = [len(piece.ids) + 1 for piece in pieces]
        self._firsts = np.cumsum([0, *sizes])
        ids = np.full(int(self._firsts[-1]), SEAM, np.int32)
        for piece, first in zip(pieces, self._firsts, strict=False):
            ids[first : first + len(piece.ids)] = piece.ids
        spelled = (ids != SEAM) & ~letters.special[ids]  # SEAM looks at the last token, and says nothing
        ids[~spelled] = SEAM
        self._chars = np.concatenate(([0], np.cumsum(np.where(spelled, letters.count[ids], 0)))).astype(np.int32)
        self.occurrences = Occurrences(ids, letters.begins, letters.spaced)

    @property
    def nbytes(self) -> int:
        return self.occurrences.nbytes + self._chars.nbytes

    def stretch(self, at: int, length: int, space: bool) -> pb.Stretch:
        """Of so many tokens; ``space``: without the space that the first begins with."""
        n = int(np.searchsorted(self._firsts, at, "right")) - 1
        first, piece = int(self._firsts[n]), self.pieces[n]
        start, end = (int(self._chars[i] - self._chars[first]) for i in (at, at + length))
        where = {"start": start + space, "end": end, "position": piece.position + at - first}
        return pb.Stretch(prompt=self.prompt, number=piece.number, **where)

    def tokens(self, stretch: pb.Stretch) -> tuple[int, int]:
        """Where in the source the characters of a stretch lie."""
        found = [n for n, piece in enumerate(self.pieces) if piece.number == stretch.number]
        if not found:
            what = f"{'part' if self.prompt else 'segment'} {stretch.number}"
            raise errors.InvalidInput(f"copy.near: {what} is none that may be quoted", field="copy.near")
        first, end = self._firsts[found[0] : found[0] + 2].tolist()
        edges = self._chars[first] + np.array([stretch.start, stretch.end])
        a, b = first + np.searchsorted(self._chars[first:end], edges)
        return int(a), int(b)

    def found(self, ids: Sequence[int], near: Sequence[tuple[int, int]], most: int) -> tuple[list[pb.Stretch], int]:
        """Where the quote stands, nearest to the evidence first, then as they come, `most` of them; and how often."""
        positions, spaces = self.occurrences.find(ids)
        gaps = [np.maximum(0, np.maximum(a - positions - len(ids), positions - b)) for a, b in near]
        by = np.argsort(np.min(gaps, 0), kind="stable") if near else np.arange(len(positions))
        told = [self.stretch(int(positions[n]), len(ids), bool(spaces[n])) for n in by[:most]]
        return told, len(positions)


class Sources:
    """The sources of sessions that were quoted from last. A fork, or a turn more, finds the one that is there."""

    def __init__(self, vault: Vault, tokenizer: Tokenizer) -> None:
        self._vault, self.letters = vault, letters_of(tokenizer)
        self._kept: OrderedDict[tuple[str, ...], Source] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()

    def of(self, tenant: str, head: Head) -> Source:
        """Of what the session has read; 140,000 tokens take about 0.1 s when it is not there. Raises Damaged."""
        read = self._vault.at(tenant, head.view, (head.draft, head.parent)) if head.view.manifest else None
        key = (tenant, *_name(read.segments if read else (), head.digest))
        with self._lock:
            source = self._kept.get(key)
        if source is None:  # nobody else waits for this one's log to come and its index to be made
            source = Source(self._pieces(tenant, read) if read else [], self.letters)
        with self._lock:
            self._kept[key] = source
            self._kept.move_to_end(key)
            while sum(kept.nbytes for kept in self._kept.values()) > KEPT_BYTES and len(self._kept) > 1:
                self._kept.popitem(last=False)
        return source

    def forget(self, tenant: str) -> None:
        """What was deleted must not be quoted."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == tenant]:
                del self._kept[key]

    def _pieces(self, tenant: str, manifest: Manifest) -> list[Piece]:
        found, position = [], 0
        for number, (label, ids) in enumerate(self._vault.tokens(tenant, manifest)):
            if label not in NO_SOURCE:
                found.append(Piece(number, position, ids))
            position += len(ids)
        return found


def _name(segments: Sequence[Segment], digest: str) -> tuple[str, ...]:
    """The digest at the end of the last source segment names all tokens before it; and which of them are source."""
    last, kinds, upto = "", "", ""
    for segment in segments:
        kinds += "-" if segment.label in NO_SOURCE else "s"
        if segment.label not in NO_SOURCE:
            last, upto = segment.digest or digest, kinds  # a segment that was cut short is the head's last
    return last, upto
