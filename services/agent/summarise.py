"""Summaries made of quotes: the model chooses sentences of a chapter, the text confirms each, centrality fills up.

Nothing here is paraphrase, so nothing can be made up; `method` says who chose.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from services.agent.central import central
from services.agent.model import Model, Said, say
from services.agent.posing import forked
from services.agent.prompts import summary_turn
from services.agent.quotes import locate, quote, sentence_around
from services.agent.reading import bookmark_at
from services.agent.sentences import sentences
from services.agent.types import Quote, SourceView, Summary
from services.ingest.types import Chapter, Span

LEAST = 2  # located quotes that are a summary
FILLED = 3  # sentences when it has to be filled up
MOST_CHAPTER = 5
MOST_WHOLE = 8
SUMMARY_TOKENS = 192
SENTENCE_CHARS = (40, 400)  # shorter is a shout, longer is a page
SCRATCH_CHARS = 8_000  # of a chapter that is read by itself


def summarise_chapter(model: Model, view: SourceView, chapter: int) -> Summary:
    """`chapter`: index into the outline."""
    entry = view.outline[chapter]
    spans = max(from_model(model, view, entry, chapter), key=len, default=[])[:MOST_CHAPTER]
    if len(spans) >= LEAST:
        return summary(view, entry.title, spans, "model", chapter)
    filled = filled_up(view, entry, spans)
    return summary(view, entry.title, filled, "model+lexical" if spans else "lexical", chapter)


def from_model(model: Model, view: SourceView, entry: Chapter, chapter: int) -> Iterator[list[Span]]:
    """What the model chose: from the reading as it stood at the chapter's end; if that is little, from the chapter."""
    bookmark = bookmark_at(view, entry.char[1])
    if view.engine_session and bookmark:
        with forked(model, view.engine_session, f"summary-{chapter}", bookmark) as fork:
            spans = located(say(model, fork, summary_turn(), SUMMARY_TOKENS), view, entry)
        yield spans
        if len(spans) >= LEAST:
            return
    a, b = entry.char
    passage = view.text[a : min(b, a + SCRATCH_CHARS)]
    yield located(say(model, "", summary_turn(passage), SUMMARY_TOKENS), view, entry)


def located(said: Said, view: SourceView, entry: Chapter) -> list[Span]:
    """Whole sentences of this chapter, in its order, each once."""
    found = [locate(words, view, [entry.char]) for words in said.quotes]
    spans = {sentence_around(view, q.char) for q in found if q.char and within(q.char, entry.char)}
    return sorted(span for span in spans if within(span, entry.char))


def within(inner: Span, outer: Span) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def filled_up(view: SourceView, entry: Chapter, spans: list[Span]) -> list[Span]:
    """The most central sentences of the chapter, besides those there are."""
    pool = sorted({*spans, *prose(view, entry)})
    texts = [view.text[a:b] for a, b in pool]
    picked = central(texts, FILLED - len(spans), [pool.index(span) for span in spans])
    return sorted([*spans, *(pool[n] for n in picked)])


def prose(view: SourceView, entry: Chapter) -> list[Span]:
    """Sentences of a length that can be quoted, headings and code left out; any block's when there is no prose."""
    blocks = [b for b in view.blocks if within(b.char, entry.char)]
    least, most = SENTENCE_CHARS
    found = [(b.char[0] + x, b.char[0] + y) for b in blocks if b.kind == "paragraph" for x, y in sentences(b.text)]
    return [s for s in found if least <= s[1] - s[0] <= most] or found


def summary(view: SourceView, title: str, spans: Sequence[Span], method: str, chapter: int | None = None) -> Summary:
    return of_quotes(title, [quote(view, span) for span in spans], method, chapter)


def of_quotes(title: str, quotes: Sequence[Quote], method: str, chapter: int | None) -> Summary:
    """The text is the quotes with a space between; each quote's `span` says where it stands."""
    text, placed = "", []
    for q in quotes:
        text += " " if text else ""
        placed.append(replace(q, span=(len(text), len(text) + len(q.text))))
        text += q.text
    return Summary(title, text, placed, method, chapter)


def summarise_whole(model: Model, view: SourceView, chapters: Sequence[Summary]) -> Summary:
    """The chapters' sentences that are most central to them all, in the order of the text; no call to the model."""
    quotes = [q for chapter in chapters for q in chapter.quotes if q.char]
    picked = sorted(central([q.text for q in quotes], MOST_WHOLE), key=lambda n: quotes[n].char or (0, 0))
    method = "model+lexical" if any(c.method != "lexical" for c in chapters) else "lexical"
    return of_quotes(view.title, [quotes[n] for n in picked], method, None)
