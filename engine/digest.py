"""The name of what was read: a chain of hashes, one link per forward over a grid chunk.

``d' = blake2b-256(d ‖ count ‖ ids)``, numbers as uint32 little endian, ``START`` = 32 zero bytes. A chunk ends at 64
tokens or at the end of its segment, so the chain names the segmentation too; a decoded token is a chunk of one.
"""

from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b

START = bytes(32)


def advance(digest: bytes, ids: Sequence[int]) -> bytes:
    words = array("I", [len(ids), *ids])
    assert words.itemsize == 4, "this platform's unsigned int has not 4 bytes"
    return blake2b(digest + words.tobytes(), digest_size=32).digest()


def links(digest: bytes, ids: Sequence[int], grid: int) -> Iterator[tuple[int, bytes]]:
    """(tokens fed, digest) after each chunk of a piece of a segment that starts on the grid."""
    for start in range(0, len(ids), grid):
        digest = advance(digest, ids[start : start + grid])
        yield min(start + grid, len(ids)), digest


def feed(digest: bytes, ids: Sequence[int], grid: int) -> bytes:
    """The digest after such a piece."""
    reached = digest
    for _, reached in links(digest, ids, grid):  # noqa: B007
        pass
    return reached


def of_segments(segments: Sequence[Sequence[int]], grid: int) -> bytes:
    """The digest of a reading of ``segments``, computed without a model."""
    digest = START
    for ids in segments:
        digest = feed(digest, ids, grid)
    return digest
