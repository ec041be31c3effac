"""A question's turn: retrieval points, the model says, the text has the last word.

1. BM25 finds the passages nearest to the question; they are shown again inside the question segment.
2. The model, whose session has read the whole source, answers with a literal span or with none: one call, greedy.
3. If it says none without being sure, or its span is nowhere, it must quote: a second call, and the last. The second
   answer counts only if the model is confident and the sentence has a word in common with the question.
4. The span is located; the answer is the span and the sentence it stands in, both the source's own letters.
5. The session keeps question and answer as one segment. A cancelled turn leaves it as it was.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from services import errors
from services.agent import repo
from services.agent.model import Model, Said, say
from services.agent.prompts import question_turn, remembered
from services.agent.quotes import locate, quote, sentence_around
from services.agent.reading import open_session
from services.agent.retrieve import analyser, retrieve
from services.agent.types import Answer, Emit, Hit, Origin, Quote, SourceView, silent
from services.inference.pb.inference_pb2 import Part

NOT_ANSWERED = "The text does not answer this."
PASSAGES = 3
PASSAGE_BUDGET = 2_400  # characters of all passages, about 600 tokens
ANSWER_TOKENS = 64
NONE_SURE = 0.9  # probability of <|none|> from which it is believed at once
QUOTE_SURE = 0.4  # mean probability of a forced quote's tokens from which it is believed
RANKS = ("exact", "normalised", "fuzzy", "none")


@dataclass
class Turn:
    """What one question needs on its way through these functions."""

    model: Model
    views: Sequence[SourceView]
    session_id: str
    question: str
    emit: Emit
    origin: Origin
    hits: list[Hit] = field(default_factory=list)
    calls: list[Said] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def ask(self, prompt: Sequence[Part], quoting: bool = False) -> Said:
        """From the reading, or, when there is none, from the prompt alone."""
        said = say(self.model, self.session_id if self.origin == "read" else "", prompt, ANSWER_TOKENS, quoting)
        if not self.calls and self.origin == "read":
            ms = said.timing.get("restore_ms", 0.0)
            source = "vault" if ms > 0 else "memory"
            self.emit("state.restored", {"ms": ms, "tokens": said.usage.get("resumed_tokens", 0), "source": source})
        self.calls.append(said)
        return said


def answer(
    model: Model, views: Sequence[SourceView], session_id: str, question: str, emit: Emit = silent, bookmark: str = ""
) -> Answer:
    """`bookmark` names the session's head behind this turn."""
    origin: Origin = "read" if all(view.engine_session for view in views) else "retrieved"
    turn = Turn(model, views, session_id, question.strip(), emit, origin)
    digest = ""
    if origin == "read":
        open_session(model, views, session_id, emit)
        digest = model.describe_session(session_id).head.digest
    result, said = find(turn) if all(view.kind == "repository" for view in views) else from_text(turn)
    tell(result, emit)
    if origin == "read":
        opening = "find" if views[0].kind == "repository" else "question"
        parts = remembered(opening, turn.question, said)
        digest = keep(model, session_id, parts, digest, bookmark)
    return replace(result, usage=usage_of(turn), timing=timing_of(turn), digest=digest)


def from_text(turn: Turn) -> tuple[Answer, list[str]]:
    """The answer, and the words of it that the session keeps."""
    turn.hits = shown(retrieve(turn.views, turn.question, PASSAGES))
    prompt = question_turn(turn.question, [hit.block.text for hit in turn.hits])
    first = turn.ask(prompt)
    found = located(turn, first)
    if not found and not (first.none and first.first_probability() >= NONE_SURE):
        second = turn.ask(prompt, quoting=True)
        found = [q for q in located(turn, second) if second.mean_probability() >= QUOTE_SURE and akin(turn, q)]
    return (composed(turn, found), [kept_words(turn, q) for q in found]) if found else (unanswered(turn), [])


def shown(hits: Sequence[Hit]) -> list[Hit]:
    """As many of the best as fit the budget; the best one always."""
    out: list[Hit] = []
    size = 0
    for hit in hits:
        if not out or size + len(hit.block.text) <= PASSAGE_BUDGET:
            out.append(hit)
            size += len(hit.block.text)
    return out


def located(turn: Turn, said: Said) -> list[Quote]:
    found = [where(turn, words) for words in said.quotes[:PASSAGES]]
    return [q for q in found if q.match != "none"]


def where(turn: Turn, words: str) -> Quote:
    """In the source where it is found best; among equals, in the source of the best passage."""
    order = [hit.source_id for hit in turn.hits]
    views = sorted(turn.views, key=lambda v: order.index(v.id) if v.id in order else len(order))
    quotes = [locate(words, v, [h.block.char for h in turn.hits if h.source_id == v.id]) for v in views]
    return min(quotes, key=lambda q: RANKS.index(q.match))


def view_of(turn: Turn, q: Quote) -> SourceView:
    return next(view for view in turn.views if view.id == q.source_id)


def akin(turn: Turn, q: Quote) -> bool:
    """The sentence around the quote and the question share a word that says something."""
    a, b = sentence_around(view_of(turn, q), q.char or (0, 0))
    sentence = analyser().analyze(view_of(turn, q).text[a:b])
    return bool(set(sentence) & set(analyser().analyze(turn.question)))


def kept_words(turn: Turn, q: Quote) -> str:
    """The source's letters with the one space before them: the very tokens that were read."""
    start = q.char[0] if q.char else 0
    text = view_of(turn, q).text
    return f" {q.text}" if start and text[start - 1] == " " else q.text


def composed(turn: Turn, found: Sequence[Quote]) -> Answer:
    """`words — “sentence”` for each; the citation is the sentence and its span points at it in the answer."""
    text, quotes = "", []
    for words in found:
        view = view_of(turn, words)
        sentence = quote(view, sentence_around(view, words.char or (0, 0)), words.match)
        lead = "" if len(words.text) >= 0.8 * len(sentence.text) else f"{words.text} — "
        text += ("\n" if text else "") + lead + "“"
        quotes.append(replace(sentence, span=(len(text), len(text) + len(sentence.text))))
        text += sentence.text + "”"
    return Answer(text, quotes, turn.origin, {}, {}, turn.hits)


def unanswered(turn: Turn) -> Answer:
    return Answer(NOT_ANSWERED, [], turn.origin, {}, {}, turn.hits, answered=False)


def find(turn: Turn) -> tuple[Answer, list[str]]:
    """A repository's turn: see repo.py."""
    candidates = repo.candidates(turn.views, turn.question)
    turn.hits = [c.hit() for c in candidates]
    if not candidates:
        return unanswered(turn), []
    said = turn.ask(repo.prompt(turn.question, candidates))
    chosen = repo.chosen(said.quotes, candidates)
    result = repo.composed(chosen or candidates[0], turn.origin, turn.hits, confirmed=chosen is not None)
    return result, [chosen.definition()] if chosen else []


def tell(result: Answer, emit: Emit) -> None:
    emit("delta", {"text": result.text})
    for n, q in enumerate(result.quotes, 1):
        emit("citation", {"n": n, **vars(q), "quote": q.text, "origin": result.origin, "verified": q.match != "none"})


def keep(model: Model, session_id: str, parts: list[Part], digest: str, bookmark: str) -> str:
    """The turn into the session, whole or not at all; the digest of the new head.

    A bookmark that is there already says that this very turn was kept before its worker was lost.
    """
    try:
        with closing(
            model.read(session_id, parts, bookmark=bookmark, segment="turn", expected_digest=digest)
        ) as stream:
            return next(message.head.digest for message in stream if message.done)
    except errors.AlreadyExists:
        return digest


def usage_of(turn: Turn) -> dict[str, int]:
    """Tokens: the first call's for what was resumed, all calls' for what was computed."""
    usage = dict(turn.calls[0].usage) if turn.calls else {}
    for name in ("read_tokens", "completion_tokens"):
        usage[name] = sum(said.usage.get(name, 0) for said in turn.calls)
    return {**usage, "calls": len(turn.calls)}


def timing_of(turn: Turn) -> dict[str, float]:
    timing = dict(turn.calls[0].timing) if turn.calls else {}
    for name in ("read_ms", "decode_ms"):
        timing[name] = sum(said.timing.get(name, 0.0) for said in turn.calls)
    return {**timing, "total_ms": round(1000 * (time.monotonic() - turn.began), 1)}
