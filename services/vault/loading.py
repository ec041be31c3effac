"""What a manifest names, brought in: state and latents at a rung, token ids of a stretch. Each block is checked before
anybody sees a byte of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from services.vault.manifest import Layout, Manifest, Rung, Segment
from services.vault.sealing import Damaged, Ref

Fetch = Callable[[Iterable[Ref]], Iterator[tuple[Ref, memoryview]]]  # raises Lost
Put = Callable[[int, np.ndarray], None]
_WIDTHS = {"F32": 4, "BF16": 2, "F16": 2}


def state_at(manifest: Manifest, rung: Rung, fetch: Fetch, put: Put) -> tuple[np.ndarray, ...]:
    """Hands latents up to the rung to `put(first, uint8 [layers, n, row])`, and returns the state's tensors, flat."""
    layout = _layout_of(manifest)
    layers = layout.latents[0]
    data = np.empty(sum(ref.payload_bytes for ref in rung.parts), np.uint8)
    pages = [page for page in manifest.pages if page.first < rung.position]
    for ref, payload in fetch([*rung.parts, *pages]):
        if ref.kind == "snapshot":
            data[ref.first : ref.last] = np.frombuffer(payload, np.uint8)
        else:
            rows = np.frombuffer(payload, np.uint8).reshape(layers, ref.last - ref.first, -1)
            put(ref.first, rows[:, : rung.position - ref.first])
    return tuple(_split(data, layout))


def token_ids(manifest: Manifest, since: int, until: int, fetch: Fetch) -> list[tuple[str, np.ndarray]]:
    """Label and token ids (uint32) of what lies in [since, until), segment by segment. Of the logs only the blocks that
    overlap are fetched.
    """
    wanted = list(_spans(manifest, since, until))
    words: dict[str, np.ndarray] = {}
    for ref, payload in fetch([ref for span in wanted for ref in _blocks(*span)]):
        words[ref.name] = np.frombuffer(payload, "<u4").copy()  # the payload's memory is lent
    return [
        (segment.label, np.concatenate([_within(words[r.name], r, first, last) for r in _blocks(segment, first, last)]))
        for segment, first, last in wanted
    ]


def _spans(manifest: Manifest, since: int, until: int) -> Iterator[tuple[Segment, int, int]]:
    """(segment, first, last) of what lies in [since, until), in tokens of the segment."""
    start = 0
    for segment in manifest.segments:
        first, last = max(0, since - start), min(segment.tokens, until - start)
        if first < last:
            yield segment, first, last
        start += segment.tokens


def _blocks(segment: Segment, first: int, last: int) -> list[Ref]:
    return [ref for ref in segment.log if ref.first < last and first < ref.last]


def _within(ids: np.ndarray, ref: Ref, first: int, last: int) -> np.ndarray:
    return ids[max(0, first - ref.first) : last - ref.first]


def _layout_of(manifest: Manifest) -> Layout:
    if manifest.layout is None:
        raise Damaged("manifest", "it does not say what its bytes are", "manifest")
    return manifest.layout


def _split(data: np.ndarray, layout: Layout) -> Iterator[np.ndarray]:
    start = 0
    for _, dtype, shape in layout.tensors:
        size = int(np.prod(shape)) * _WIDTHS[dtype]
        yield data[start : start + size]
        start += size
    if start != data.nbytes:
        raise Damaged("snapshot", f"has {data.nbytes} bytes, its layout {start}")
