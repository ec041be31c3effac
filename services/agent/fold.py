"""Text as a quote is compared: folded, with the way back to the original offsets.

Folded: compatibility forms and ligatures opened, accents and case off, curly quotes straight, a dash one hyphen
without spaces around it, white space one space; hyphens (and line breaks behind them) inside a word, soft hyphens and
zero-width characters gone.
"""

import re
import unicodedata
from array import array
from dataclasses import dataclass
from functools import lru_cache

from services.ingest.types import Span

INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
LETTER = r"[^\W\d_]"
PIECE = re.compile(
    rf"(?P<gone>[{INVISIBLE}]|(?<={LETTER})[-\u2010\u2011\u00ad](?:[ \t]*\n[ \t]*)?(?={LETTER}))"
    r"|(?P<plain>[A-Za-z0-9.,;:!?()'\"]+)"
    r"|(?P<dash>\s*(?:--+|[\u2012-\u2015])\s*|\s+-\s+)"
    r"|(?P<space>\s+)"
    r"|(?P<char>.)",
    re.DOTALL,
)
QUOTES = str.maketrans({**dict.fromkeys("‘’‚‛′`´ʼ", "'"), **dict.fromkeys("“”„‟″«»", '"'), "…": "..."})


@dataclass(frozen=True)
class Folded:
    text: str
    origin: array  # where in the original each folded character begins
    size: int  # of the original

    def span(self, start: int, end: int) -> Span:
        """The original's [a, b) for the folded [start, end)."""
        last = self.origin[end - 1]
        after = next((self.origin[n] for n in range(end, len(self.origin)) if self.origin[n] > last), self.size)
        return self.origin[start], after


@lru_cache(maxsize=4096)
def fold_char(char: str) -> str:
    opened = unicodedata.normalize("NFKD", char.translate(QUOTES))
    return "".join(c for c in opened if not unicodedata.combining(c)).casefold().translate(QUOTES)


def folded_piece(piece: re.Match[str]) -> str:
    kind = piece.lastgroup
    if kind == "plain":
        return piece[0].lower()
    return {"gone": "", "dash": "-", "space": " "}[kind] if kind in ("gone", "dash", "space") else fold_char(piece[0])


def fold(text: str) -> Folded:
    out, origin = [], array("q")
    for piece in PIECE.finditer(text):
        folded = folded_piece(piece)
        out.append(folded)
        plain = piece.lastgroup == "plain"
        origin.extend(range(*piece.span()) if plain else [piece.start()] * len(folded))
    return Folded("".join(out), origin, len(text))
