"""From the ids that sequences feed to one batch: rows, tables, and the tags that the state says before and after."""

from collections.abc import Sequence as Ids
from dataclasses import dataclass

import torch

from engine import digest
from engine.model import Batch, Piece
from engine.provenance import Tag
from engine.request import Request
from engine.sequences import Sequence


@dataclass(frozen=True)
class Work:
    """Rows that one sequence feeds in one forward."""

    request: Request
    sequence: Sequence
    ids: Ids[int]


def pack(works: list[Work], grid: int, page_tokens: int, pad: bool, device: torch.device) -> Batch:
    """The rows of ``works`` one after another. Where ``pad``, several rows become a multiple of the grid's 64."""
    pieces: list[Piece] = []
    fed: list[int] = []
    for work in works:
        pieces.append(_piece(work, len(fed), grid, page_tokens, device))
        fed += work.ids
    if pad and len(fed) > 1:
        fed += [0] * (-len(fed) % grid)  # rows of no piece: every matmul has one of two shapes
    return Batch(torch.tensor(fed, device=device), tuple(pieces))


def _piece(work: Work, start: int, grid: int, page_tokens: int, device: torch.device) -> Piece:
    """Here, before the forward, is the one place where a digest advances."""
    s, count = work.sequence, len(work.ids)
    table = s.pages[: -(-(s.position + count) // page_tokens)]
    after = Tag(s.position + count, digest.feed(s.digest, work.ids, grid))
    return Piece(slice(start, start + count), s.slot, table, torch.tensor(table).to(device), s.tag, after)
