"""What a row of state has consumed, said by the row itself.

A row is one slot's state in one KDA layer, or one page of latents in one MLA layer. Its tag is written where its
numbers are written, from the same metadata, and moved by whatever moves the numbers. So a copy of the wrong slot, page
or moment brings a wrong tag along, and what does not say of itself what its sequence says is not given out.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from engine.digest import START


@dataclass(frozen=True, slots=True)
class Tag:
    """So many tokens, from the start of the reading, which the digest names."""

    position: int
    digest: bytes  # 32 bytes, engine.digest

    def __str__(self) -> str:
        return f"position {self.position}, digest {self.digest.hex()[:16]}"


BLANK = Tag(0, START)


class ProvenanceError(RuntimeError):
    """A row of state is not what its sequence says it is. Names the layer, the slot or page, and both tags."""


def require(found: Tag, expected: Tag, row: str) -> None:
    if found != expected:
        raise ProvenanceError(f"{row} is at {found}; its sequence at {expected}")


def page_tags(first: int, after: Tag, page_tokens: int) -> Iterator[tuple[int, Tag]]:
    """The pages of a sequence, counted from its start, that hold positions first..after.position, each with its tag.

    A page's tag says how far the page reaches and the digest of the forward (or restore) that wrote its last row.
    """
    for i in range(first // page_tokens, -(-after.position // page_tokens)):
        yield i, Tag(min((i + 1) * page_tokens, after.position), after.digest)
