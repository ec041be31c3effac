"""Summaries made of quotes: sentences that carry a chapter (carrying.py); that the model chose one counts for it.

Nothing here is paraphrase, so nothing can be made up; `method` says whether the model chose what is shown.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from services.agent.carrying import carrying
from services.agent.central import central
from services.agent.copied import Quotable, Shown, in_prompt, in_session
from services.agent.model import Model, Places, Said, say
from services.agent.posing import forked
from services.agent.prompts import summary_turn
from services.agent.quotes import locate, quote, sentence_around, trimmed
from services.agent.reading import bookmark_at
from services.agent.sentences import sentences
from services.agent.types import Quote, SourceView, Summary
from services.ingest.types import Chapter, Span

LEAST = 2  # located quotes from which the model is not asked once more
MOST_CHAPTER = 4
MOST_WHOLE = 8
SUMMARY_TOKENS = 192
SENTENCE_CHARS = (40, 400)  # shorter is a shout, longer is a page
SCRATCH_CHARS = 8_000  # of a chapter that is read by itself


def summarise_chapter(model: Model, view: SourceView, chapter: int) -> Summary:
    """`chapter`: index into the outline."""
    entry = view.outline[chapter]
    spans = voted(model, view, chapter)
    pool = sorted({*spans, *prose(view, entry)})
    most = min(MOST_CHAPTER, 1 + len(pool) // 2)
    votes = [pool.index(span) for span in spans]
    picked = carrying([view.text[a:b] for a, b in pool], entry.title, headings(view, entry), most, votes)
    return summary(view, entry.title, [pool[n] for n in picked], method(picked, votes), chapter)


def voted(model: Model, view: SourceView, chapter: int) -> list[Span]:
    """The sentences that the model chose: the longer of its two tries."""
    return max(from_model(model, view, view.outline[chapter], chapter), key=len, default=[])


def method(picked: Sequence[int], votes: Sequence[int]) -> str:
    """Who stands behind the sentences."""
    both = set(picked) & set(votes)
    return "lexical" if not both else "model" if both == set(picked) else "model+lexical"


def from_model(model: Model, view: SourceView, entry: Chapter, chapter: int) -> Iterator[list[Span]]:
    """What the model chose: from the reading as it stood at the chapter's end; if that is little, from the chapter."""
    bookmark = bookmark_at(view, entry.char[1])
    if view.engine_session and bookmark:
        read = in_session([view])
        with forked(model, view.engine_session, f"summary-{chapter}", bookmark) as fork:
            said = say(model, fork, summary_turn(), SUMMARY_TOKENS, read.copy([(view, entry.char)]))
        yield (spans := located(said, view, entry, read))
        if len(spans) >= LEAST:
            return
    a, b = entry.char
    passage = a, min(b, a + SCRATCH_CHARS)
    prompt = summary_turn(view.text[slice(*passage)])
    shown = in_prompt(prompt, [Shown(view, passage)])
    yield located(say(model, "", prompt, SUMMARY_TOKENS, shown.copy()), view, entry, shown)


def located(said: Said, view: SourceView, entry: Chapter, quotable: Quotable) -> list[Span]:
    """Whole sentences of this chapter, in its order, each once."""
    pairs = zip(said.quotes, said.places, strict=True)
    found = [where(words, places, view, entry, quotable) for words, places in pairs]
    spans = {sentence_around(view, char) for char in found if char}
    return sorted(span for span in spans if within(span, entry.char))


def where(words: str, places: Places, view: SourceView, entry: Chapter, quotable: Quotable) -> Span | None:
    """In the chapter: the engine tells first of what is nearest to it."""
    spans = [trimmed(view.text, span) for _, span in quotable.spans(words, places)]
    char = spans[0] if spans else locate(words, view, [entry.char]).char
    return char if char and within(char, entry.char) else None


def within(inner: Span, outer: Span) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def headings(view: SourceView, entry: Chapter) -> str:
    """The words of the headings inside the chapter."""
    return " ".join(b.text for b in view.blocks if b.kind == "heading" and within(b.char, entry.char))


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
