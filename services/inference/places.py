"""Where in a segment a rung may stand, and what a reading is called there."""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile

from engine.config import GRID
from engine.digest import feed, links
from services.inference.taking import Work
from services.vault.drafts import Piece
from services.vault.heads import Head


def places(head: Head, ids: list[int]) -> list[tuple[int, str]]:
    """(position, digest) after each chunk of a segment's grid, and at its end."""
    return [(head.position + count, digest.hex()) for count, digest in links(bytes.fromhex(head.digest), ids, GRID)]


def ended(work: Work) -> tuple[Piece, ...]:
    """The pieces with the digest at the end of each."""
    digest, pieces = bytes.fromhex(work.head.digest), []
    for piece in work.pieces:
        digest = feed(digest, piece.ids, GRID)
        pieces.append(replace(piece, digest=digest.hex()))
    return tuple(pieces)


def doors(work: Work, pieces: tuple[Piece, ...]) -> tuple[str, ...]:
    """The digest behind the first chunk of the first piece: where a reading like this one is noticed."""
    return tuple(feed(bytes.fromhex(work.head.digest), piece.ids[:GRID], GRID).hex() for piece in pieces[:1])


def shared_chunks(ids: list[int], others: list[int]) -> int:
    """Tokens of whole chunks that two segments begin with; 0 when the first has no more than these."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, others, strict=False)))
    return same // GRID * GRID if same < len(ids) else 0
