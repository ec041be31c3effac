"""What is about to be stored: a state as an engine gave it out, what it was read from, and the blocks to be made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import structlog

from services import errors
from services.vault.keys import TenantKey
from services.vault.manifest import NOTHING, Layout, Manifest, Segment
from services.vault.metrics import Metrics
from services.vault.sealing import OVERHEAD, Block, sealed

log = structlog.get_logger(__name__)

LOG_TOKENS = 64 * 1024  # in one block of a log: 256 KiB
_RUN = 4 * 1024 * 1024  # bytes
Rows = np.ndarray  # uint8 [layers, tokens, bytes of a row]


@dataclass(frozen=True)
class State:
    """What an engine gave out: everything at `position`, latents from `first` on.

    latents uint8 [layers, position - first, bytes of a row]; tensors: flat uint8 in the order of layout.tensors;
    tags: (position, digest) as every piece of state says of itself.
    """

    position: int
    digest: str
    first: int
    latents: Rows
    tensors: tuple[np.ndarray, ...]
    layout: Layout
    tags: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Piece:
    """A segment on top of a head: `read` of its ids were read."""

    label: str
    ids: list[int]
    read: int
    digest: str = ""  # the rolling digest at its end, when it was read to there


@dataclass(frozen=True)
class Draft:
    """A reading to be stored. `base` has pages and rungs that stay; `segments` come before the pieces."""

    base: Manifest
    segments: tuple[Segment, ...]
    pieces: tuple[Piece, ...]
    state: State | None  # None: `base` has all of it
    seconds: float  # of computing, from position 0
    doors: tuple[str, ...] = ()  # digests behind the first chunk of each piece: whoever comes this way is noticed


@dataclass(frozen=True)
class Making:
    """A block to be made and written: by whichever thread is free, so that no reading is held twice."""

    size: int  # as stored
    make: Callable[[], Block]


def check_provenance(state: State, metrics: Metrics) -> None:
    """Refuses a state of which any piece says that it is of another position or of other tokens."""
    wrong = [tag for tag in state.tags if tag != (state.position, state.digest)]
    if wrong or not state.tags or (state.position == 0) != (state.digest == NOTHING):
        metrics.refused("provenance")
        said = f"{wrong[0][0]} {wrong[0][1][:12]}" if wrong else "nothing"
        log.error("provenance", position=state.position, said=said)
        raise errors.ShioriError(
            f"a state that says it is of {said} was to be filed as {state.position} {state.digest[:12]}; refused",
            code="provenance",
        )


def page_makings(key: TenantKey, state: State, spans: list[tuple[int, int]]) -> list[Making]:
    row = state.latents.shape[0] * state.latents.shape[2]
    return [Making((z - a) * row + OVERHEAD, partial(page_block, key, state, (a, z))) for a, z in spans]


def page_block(key: TenantKey, state: State, span: tuple[int, int]) -> Block:
    rows = state.latents[:, span[0] - state.first : span[1] - state.first]
    return sealed(key, "page", span, np.ascontiguousarray(rows).data)


def part_makings(key: TenantKey, state: State, page_tokens: int) -> list[Making]:
    """The snapshot in parts of a page's size. Their names say which position they belong to."""
    layers, _, row = state.latents.shape
    size, data = page_tokens * layers * row, np.concatenate(state.tensors)
    spans = [(at, min(at + size, data.nbytes)) for at in range(0, data.nbytes, size)]
    at = f"{state.position} {state.digest}"
    return [Making(z - a + OVERHEAD, partial(sealed, key, "snapshot", (a, z), data[a:z].data, at)) for a, z in spans]


def log_makings(key: TenantKey, ids: list[int]) -> list[Making]:
    words = np.asarray(ids, dtype="<u4")
    spans = [(at, min(at + LOG_TOKENS, len(ids))) for at in range(0, len(ids), LOG_TOKENS)]
    return [Making(4 * (z - a) + OVERHEAD, partial(sealed, key, "log", (a, z), words[a:z].tobytes())) for a, z in spans]


def runs(makings: Iterable[Making]) -> Iterator[list[Making]]:
    """A few MiB of blocks each: long enough to fill a pipeline, short enough not to hold a reading twice."""
    run: list[Making] = []
    total = 0
    for making in makings:
        if run and total + making.size > _RUN:
            yield run
            run, total = [], 0
        run.append(making)
        total += making.size
    if run:
        yield run
