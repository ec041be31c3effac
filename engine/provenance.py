"""What a row of state has consumed, said by the row itself."""

from dataclasses import dataclass

from engine.digest import START


@dataclass(frozen=True, slots=True)
class Tag:
    """What a row of a pool (a slot's state, a page of latents) has consumed: so many tokens, named by the digest."""

    position: int
    digest: bytes  # 32 bytes, engine.digest

    def __str__(self) -> str:
        return f"position {self.position}, digest {self.digest.hex()[:16]}"


BLANK = Tag(0, START)


class ProvenanceError(RuntimeError):
    """A row's tag does not say what its sequence says. Names the layer, the slot or page, and both tags."""
