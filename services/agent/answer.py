"""A question's turn: retrieval points, the model says, the text has the last word.

1. The first look: the question, and nothing else, is put to the session, which has read the whole source. The model
   answers with a literal span, which the engine holds it to, or with none: greedy. Nothing stands before this that
   could come later.
2. What it says is told word by word as a draft; what is checked comes after it.
3. What it says counts as far as the sentence around it has the question's words. When that is little, BM25 finds the
   passages nearest to the question, and the model is asked a second time, and the last, from these alone; the better
   supported of the two is the answer, and its origin says which. A small model loses its hold on a passage behind a
   long reading; this finds out and says so.
4. The answer is the span and the sentence it stands in, both the source's own letters.
5. The session keeps question and answer as one segment. A cancelled turn leaves it as it was.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property

from services import errors
from services.agent import repo
from services.agent.copied import Quotable, Shown, in_prompt, in_session, numbers
from services.agent.locating import in_sources, whole_words
from services.agent.model import Model, Said, say, special
from services.agent.prompts import question_turn, remembered
from services.agent.quotes import quote, sentence_around
from services.agent.reading import open_session, renew
from services.agent.retrieve import retrieve
from services.agent.support import support
from services.agent.types import Answer, Emit, Hit, Origin, Quote, SourceView, silent
from services.inference.pb.inference_pb2 import Copy, Part

NOT_ANSWERED = "The text does not answer this."
ANSWER_TOKENS = 48
PASSAGES = 3
PASSAGE_BUDGET = 2_400  # characters of all passages, about 600 tokens
SURE = 0.5  # support from which no second look is taken
LEAST = 0.25  # support below which nothing counts; on the sample's facts wrong spans have 0 to 0.3, right ones 0.26 up


@dataclass
class Turn:
    """What one question needs on its way through these functions."""

    model: Model
    views: Sequence[SourceView]
    session_id: str
    question: str
    emit: Emit
    origin: Origin
    calls: list[Said] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @cached_property
    def hits(self) -> list[Hit]:
        """Passages nearest to the question; looked for when they are first needed, behind the first look."""
        return shown(retrieve(self.views, self.question, PASSAGES))

    def look(self, prompt: Sequence[Part], origin: Origin, copy: Copy | None) -> Said:
        """Asks the reading, or the model with the prompt alone; tells what it says while it says it."""
        pieces, look = 0, len(self.calls) + 1

        def draft(words: str) -> None:
            nonlocal pieces
            self.emit("draft", {"text": words, "n": pieces, "look": look})
            pieces += 1

        session_id = self.session_id if origin == "read" else ""
        self.calls.append(say(self.model, session_id, [*prompt, special("answer")], ANSWER_TOKENS, copy, draft))
        if origin == "read":
            self.tell_restored(self.calls[-1])
        return self.calls[-1]

    def tell_restored(self, said: Said) -> None:
        ms, tokens = said.timing["restore_ms"], said.usage["resumed_tokens"]
        self.emit("state.restored", {"ms": ms, "tokens": tokens, "source": "vault" if ms > 0 else "memory"})


def answer(
    model: Model, views: Sequence[SourceView], session_id: str, question: str, emit: Emit = silent, bookmark: str = ""
) -> Answer:
    """`bookmark` names the session's head behind this turn."""
    origin: Origin = "read" if all(view.engine_session for view in views) else "retrieved"
    turn = Turn(model, views, session_id, question.strip(), emit, origin)
    digest = ""
    if origin == "read":
        session = open_session(model, views, session_id, emit)
        renew(model, session, emit)
        digest = session.head.digest
    code = all(view.kind == "repository" and view.symbols for view in views)
    result, said = find(turn) if code else from_text(turn)
    tell(result, emit)
    if origin == "read":
        parts = remembered("find" if code else "question", turn.question, said)
        digest = keep(model, session_id, parts, digest, bookmark)
    return replace(result, usage=usage_of(turn), timing=timing_of(turn), digest=digest)


def from_text(turn: Turn) -> tuple[Answer, list[str]]:
    """The answer, and the words of it that the session keeps."""
    looks = []
    if turn.origin == "read":
        looks.append(said_by(turn, question_turn(turn.question, []), "read", in_session(turn.views)))
    if not looks or looks[0].support < SURE:
        prompt = question_turn(turn.question, [hit.block.text for hit in turn.hits])
        passages = [Shown(named(turn, hit.source_id), hit.block.char) for hit in turn.hits]
        looks.append(said_by(turn, prompt, "retrieved", in_prompt(prompt, passages)))
    best = max(looks, key=lambda look: look.support)
    if best.support < LEAST:
        return unanswered(turn), []
    turn.origin = best.origin
    return composed(turn, best.quotes), [kept_words(turn, q) for q in best.quotes]


@dataclass(frozen=True)
class Spoken:
    """What the model said that is in the source, and how much of the question stands around it."""

    quotes: list[Quote]
    support: float
    origin: Origin


def said_by(turn: Turn, prompt: Sequence[Part], origin: Origin, quotable: Quotable) -> Spoken:
    said = turn.look(prompt, origin, quotable.copy())
    found = [(supported(turn, q), q) for q in located(turn, said, quotable)]
    best = max((share for share, _ in found), default=0.0)
    return Spoken([q for share, q in found if share >= LEAST], best, origin)


def supported(turn: Turn, q: Quote) -> float:
    view = named(turn, q.source_id)
    a, b = sentence_around(view, q.char or (0, 0))
    return support(turn.question, view.text[a:b], turn.views)


def shown(hits: Sequence[Hit]) -> list[Hit]:
    """As many of the best as fit the budget; the best one always."""
    out: list[Hit] = []
    size = 0
    for hit in hits:
        if not out or size + len(hit.block.text) <= PASSAGE_BUDGET:
            out.append(hit)
            size += len(hit.block.text)
    return out


def located(turn: Turn, said: Said, quotable: Quotable) -> list[Quote]:
    if not said.quotes:
        return []
    found = in_sources(said, quotable, turn.views, turn.hits)[:PASSAGES]
    return [whole_words(named(turn, q.source_id), q) for q in found if q.match != "none"]


def named(turn: Turn, source_id: str) -> SourceView:
    return next(view for view in turn.views if view.id == source_id)


def kept_words(turn: Turn, q: Quote) -> str:
    """The source's letters with the one space before them: the very tokens that were read."""
    start = q.char[0] if q.char else 0
    text = named(turn, q.source_id).text
    return f" {q.text}" if start and text[start - 1] == " " else q.text


def composed(turn: Turn, found: Sequence[Quote]) -> Answer:
    """`words — “sentence”` for each; the citation is the sentence and its span points at it in the answer."""
    text, quotes = "", []
    for words in found:
        view = named(turn, words.source_id)
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
    prompt = repo.prompt(turn.question, candidates)
    chosen = pointed_at(turn, prompt, candidates, turn.origin)
    if chosen is None and turn.origin == "read":
        chosen = pointed_at(turn, prompt, candidates, "retrieved")
        turn.origin = "retrieved" if chosen else "read"
    best, sure = chosen or candidates[0], chosen is not None
    result = repo.composed(best, turn.origin, turn.hits, sure, candidates[1:])
    return result, [chosen.definition()] if chosen else []


def pointed_at(
    turn: Turn, prompt: Sequence[Part], candidates: Sequence[repo.Candidate], origin: Origin
) -> repo.Candidate | None:
    return repo.chosen(turn.look(prompt, origin, Copy(parts=numbers(prompt))).quotes, candidates)


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
    """Tokens: resumed once, computed and decoded in all, and how often the model was asked (calls)."""
    total = lambda name: sum(said.usage.get(name, 0) for said in turn.calls)  # noqa: E731
    first = turn.calls[0].usage if turn.calls else {}
    counts = {"prompt_tokens": first.get("prompt_tokens", 0), "resumed_tokens": first.get("resumed_tokens", 0)}
    computed = {"read_tokens": total("read_tokens"), "completion_tokens": total("completion_tokens")}
    return {**counts, **computed, "calls": len(turn.calls)}


def timing_of(turn: Turn) -> dict[str, float]:
    """Milliseconds."""
    total = lambda name: round(sum(said.timing.get(name, 0.0) for said in turn.calls), 1)  # noqa: E731
    spent = {name: total(name) for name in ("restore_ms", "read_ms", "decode_ms")}
    return {**spent, "total_ms": round(1000 * (time.monotonic() - turn.began), 1)}
