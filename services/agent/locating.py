"""What the model said, in one of several sources: where the engine says that it stands; else where it is found."""

import re
from collections.abc import Sequence

from services.agent.copied import Quotable
from services.agent.model import Places, Said
from services.agent.quotes import bounded, locate, nearest, quote, trimmed
from services.agent.types import Hit, Quote, SourceView
from services.ingest.types import Span

WORD_BEFORE, WORD_AFTER = re.compile(r"[^\W_][\w’'-]*$"), re.compile(r"[\w’'-]*[^\W_]")
RANKS = ("exact", "normalised", "none")


def in_sources(said: Said, quotable: Quotable, views: Sequence[SourceView], hits: Sequence[Hit]) -> list[Quote]:
    """A quote each; of several places the nearest to the passages (`hits`, best first), in the best one's source."""
    order = [hit.source_id for hit in hits]
    ranked = sorted(views, key=lambda v: order.index(v.id) if v.id in order else len(order))
    near = {v.id: [hit.block.char for hit in hits if hit.source_id == v.id] for v in views}
    pairs = zip(said.quotes, said.places, strict=True)
    return [copied(quotable, words, places, ranked, near) or looked_for(words, ranked, near) for words, places in pairs]


def copied(
    quotable: Quotable, words: str, places: Places, views: Sequence[SourceView], near: dict[str, list[Span]]
) -> Quote | None:
    """By the engine's places; None when it has none, or not all of them."""
    if places.count > len(places.stretches) or not any(letter.isalnum() for letter in words):
        return None
    spans = quotable.spans(words, places)
    for view in views:
        if found := [trimmed(view.text, span) for one, span in spans if one is view]:
            apart = [span for span in found if bounded(view.text, *span)]
            return quote(view, nearest(apart or found, near[view.id]))
    return None


def looked_for(words: str, views: Sequence[SourceView], near: dict[str, list[Span]]) -> Quote:
    """In the source where it is found best."""
    return min((locate(words, v, near[v.id]) for v in views), key=lambda q: RANKS.index(q.match))


def whole_words(view: SourceView, q: Quote) -> Quote:
    """`thirty` of `thirty-one` is nobody's answer: a span ends where words end, hyphens included."""
    a, b = q.char or (0, 0)
    left, right = WORD_BEFORE.search(view.text[max(0, a - 40) : a]), WORD_AFTER.match(view.text[b : b + 40])
    a, b = a - (len(left[0]) if left else 0), b + (len(right[0]) if right else 0)
    return q if (a, b) == q.char else quote(view, (a, b), q.match)
