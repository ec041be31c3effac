"""A question's turn: retrieval points, the model says, the text has the last word.

1. BM25 finds the passages nearest to the question; they are shown again inside the question segment.
2. The question is read on a fork of the session, which has read the whole source; the model answers with a literal span
   or with none: greedy.
3. If it says none without being sure, or its span is nowhere, it is asked once more and must quote. The second answer
   counts only if the model is confident and the sentence has a word in common with the question.
4. The span is located; the answer is the span and the sentence it stands in, both the source's own letters.
5. The session keeps question and answer as one segment. A cancelled turn leaves it as it was.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace

from services import errors
from services.agent import repo
from services.agent.model import Model, Said
from services.agent.posing import Posed, posed
from services.agent.prompts import question_turn, remembered
from services.agent.quotes import locate, quote, sentence_around
from services.agent.reading import open_session
from services.agent.retrieve import analyser, retrieve
from services.agent.types import Answer, Emit, Hit, Origin, Quote, SourceView, silent
from services.inference.pb.inference_pb2 import Part

NOT_ANSWERED = "The text does not answer this."
PASSAGES = 3
PASSAGE_BUDGET = 2_400  # characters of all passages, about 600 tokens
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
    name: str
    origin: Origin
    hits: list[Hit] = field(default_factory=list)
    calls: list[Said] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @contextmanager
    def posed(self, prompt: Sequence[Part]) -> Iterator[Posed]:
        """To the reading, or, when there is none, to the model with the prompt alone."""
        scratch = self.origin == "retrieved"
        with posed(self.model, self.session_id, prompt, scratch, self.name) as question:
            self.calls = question.calls
            if not scratch:
                self.tell_restored()
            yield question

    def tell_restored(self) -> None:
        ms, tokens = self.calls[0].timing["restore_ms"], self.calls[0].usage["resumed_tokens"]
        self.emit("state.restored", {"ms": ms, "tokens": tokens, "source": "vault" if ms > 0 else "memory"})


def answer(
    model: Model, views: Sequence[SourceView], session_id: str, question: str, emit: Emit = silent, bookmark: str = ""
) -> Answer:
    """`bookmark` names the session's head behind this turn."""
    origin: Origin = "read" if all(view.engine_session for view in views) else "retrieved"
    turn = Turn(model, views, session_id, question.strip(), emit, bookmark, origin)
    digest = ""
    if origin == "read":
        open_session(model, views, session_id, emit)
        digest = model.describe_session(session_id).head.digest
    code = all(view.kind == "repository" and view.symbols for view in views)
    result, said = find(turn) if code else from_text(turn)
    tell(result, emit)
    if origin == "read":
        parts = remembered("find" if code else "question", turn.question, said)
        digest = keep(model, session_id, parts, digest, bookmark)
    return replace(result, usage=usage_of(turn), timing=timing_of(turn), digest=digest)


def from_text(turn: Turn) -> tuple[Answer, list[str]]:
    """The answer, and the words of it that the session keeps."""
    turn.hits = shown(retrieve(turn.views, turn.question, PASSAGES))
    with turn.posed(question_turn(turn.question, [hit.block.text for hit in turn.hits])) as posed_question:
        found = said_of(turn, posed_question)
    return (composed(turn, found), [kept_words(turn, q) for q in found]) if found else (unanswered(turn), [])


def said_of(turn: Turn, question: Posed) -> list[Quote]:
    """What the model says that is in the source; one second thought."""
    first = question.ask()
    found = located(turn, first)
    if found or (first.none and first.first_probability() >= NONE_SURE):
        return found
    second = question.ask(quoting=True)
    return [q for q in located(turn, second) if second.mean_probability() >= QUOTE_SURE and akin(turn, q)]


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
    with turn.posed(repo.prompt(turn.question, candidates)) as question:
        chosen = repo.chosen(question.ask().quotes, candidates)
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
            return [message for message in stream if message.done][-1].head.digest
    except errors.AlreadyExists:
        return digest


def usage_of(turn: Turn) -> dict[str, int]:
    """Tokens: resumed once, computed and decoded in all, and how often the model was asked."""
    total = lambda name: sum(said.usage.get(name, 0) for said in turn.calls)  # noqa: E731
    first = turn.calls[0].usage if turn.calls else {}
    counts = {"prompt_tokens": first.get("prompt_tokens", 0), "resumed_tokens": first.get("resumed_tokens", 0)}
    computed = {"read_tokens": total("read_tokens"), "completion_tokens": total("completion_tokens")}
    return {**counts, **computed, "calls": max(0, len(turn.calls) - 1)}


def timing_of(turn: Turn) -> dict[str, float]:
    """Milliseconds."""
    total = lambda name: round(sum(said.timing.get(name, 0.0) for said in turn.calls), 1)  # noqa: E731
    spent = {name: total(name) for name in ("restore_ms", "read_ms", "decode_ms")}
    return {**spent, "total_ms": round(1000 * (time.monotonic() - turn.began), 1)}
