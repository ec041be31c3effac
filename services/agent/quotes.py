"""What the model said, found in the source; the quote that leaves is always the source's own letters.

The engine says where a quote stands (copied.py). Where it does not, or says only of some places, the very characters
are looked for, then the same after folding (fold.py). What is not found becomes a quote with match "none": it has no
text and is not shown as a quote.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache

from services.agent.fold import Folded, fold
from services.agent.sentences import sentences
from services.agent.types import Match, Quote, SourceView
from services.ingest.types import Span

UNBOUNDED_CHARS = 20  # a quote cut inside a word (the token limit) still counts when it is this long
LONGEST_SENTENCE = 600
WORD = re.compile(r"\w+")


def locate(said: str, view: SourceView, near: Sequence[Span] = ()) -> Quote:
    """`near`: passages shown to the model, best first; of several occurrences the one nearest to them is taken."""
    words = said.strip()
    if not WORD.search(words):
        return nowhere(view)
    exact = occurrences(words, view)
    if exact:
        return quote(view, nearest(exact, near), "exact")
    folded = [s for p in near[:1] for s in folded_occurrences(words, view, p)] or folded_occurrences(words, view)
    return quote(view, nearest(folded, near), "normalised") if folded else nowhere(view)


def nowhere(view: SourceView) -> Quote:
    return Quote("", view.id, None, match="none")


def quote(view: SourceView, char: Span, match: Match = "exact") -> Quote:
    """The stretch with everything a citation names: line, page, path, chapter."""
    a, b = char
    first, last = block_at(view, a), block_at(view, b - 1)
    block = view.blocks[first]
    line = line_of(view, first, a), line_of(view, last, b - 1)
    return Quote(view.text[a:b], view.id, char, line, page_of(view, first, a), block.path, block.chapter, match)


def block_at(view: SourceView, char: int) -> int:
    return max(0, bisect_right(view.starts, char) - 1)


def line_of(view: SourceView, ordinal: int, char: int) -> int:
    block = view.blocks[ordinal]
    return block.line[0] + view.text.count("\n", block.char[0], char)


def page_of(view: SourceView, ordinal: int, char: int) -> int | None:
    """The page on which the block begins; a form feed inside the block turns it."""
    block = view.blocks[ordinal]
    return None if block.page is None else block.page + view.text.count("\f", block.char[0], char)


def occurrences(words: str, view: SourceView) -> list[Span]:
    """Every place where exactly these words stand, not inside other words."""
    return list(found_in(view.text, words))


def found_in(text: str, words: str) -> Iterator[Span]:
    at = text.find(words)
    while at >= 0:
        if bounded(text, at, at + len(words)) or len(words) >= UNBOUNDED_CHARS:
            yield at, at + len(words)
        at = text.find(words, at + 1)


def bounded(text: str, a: int, b: int) -> bool:
    """No word goes on across either edge."""
    left = a > 0 and text[a - 1].isalnum() and text[a].isalnum()
    right = b < len(text) and text[b].isalnum() and text[b - 1].isalnum()
    return not (left or right)


def folded_occurrences(words: str, view: SourceView, part: Span | None = None) -> list[Span]:
    """The same after folding; in the whole source, or in a part of it."""
    start, stop = part or (0, len(view.text))
    wanted, folded = fold(words).text.strip(), folded_text(view.text[start:stop])
    spans = [folded.span(a, b) for a, b in found_in(folded.text, wanted)] if wanted else []
    return [trimmed(view.text, (a + start, b + start)) for a, b in spans]


@lru_cache(maxsize=16)
def folded_text(text: str) -> Folded:
    return fold(text)


def nearest(spans: Sequence[Span], near: Sequence[Span]) -> Span:
    """Inside the best passage that holds one, else least far from any passage, else the first."""
    for passage in near:
        inside = [s for s in spans if passage[0] <= s[0] and s[1] <= passage[1]]
        if inside:
            return inside[0]
    return min(spans, key=lambda s: min((gap(s, p) for p in near), default=0))


def gap(one: Span, other: Span) -> int:
    return max(0, one[0] - other[1], other[0] - one[1])


def whole_words(text: str, span: Span) -> Span:
    a, b = span
    while a > 0 and text[a - 1].isalnum() and text[a].isalnum():
        a -= 1
    while b < len(text) and text[b].isalnum() and text[b - 1].isalnum():
        b += 1
    return a, b


def trimmed(text: str, span: Span) -> Span:
    a, b = span
    while a < b and text[a].isspace():
        a += 1
    while b > a and text[b - 1].isspace():
        b -= 1
    return a, b


def sentence_around(view: SourceView, char: Span) -> Span:
    """The whole sentences that the span lies in, unless they are too long to quote: then whole words around it."""
    first, last = view.blocks[block_at(view, char[0])], view.blocks[block_at(view, char[1] - 1)]
    start = first.char[0]
    touched = [(a + start, b + start) for a, b in sentences(view.text[start : last.char[1]])]
    inside = [s for s in touched if s[0] < char[1] and char[0] < s[1]]
    a, b = min([char[0], *(s[0] for s in inside)]), max([char[1], *(s[1] for s in inside)])
    if b - a <= LONGEST_SENTENCE:
        return a, b
    room = max(0, LONGEST_SENTENCE - (char[1] - char[0])) // 2
    return trimmed(view.text, whole_words(view.text, (max(a, char[0] - room), min(b, char[1] + room))))
