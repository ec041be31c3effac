"""A question's turn: the model proposes, the text has the last word.

1. The first look: the question, and nothing else, is put to the session, which has read the whole source. The model
   answers with a literal span, which the engine holds it to: greedy. Nothing stands before this that could come later.
2. Further looks (looks.py) follow while it is open which span is right: at the passages that BM25 finds nearest to the
   question, alone and together.
3. Which proposal is the answer, and whether the text answers at all, is weighed by learned weights (weighing.py). The
   answer's origin says which look it came from.
4. What the model says is told word by word as a draft; what is checked comes after it.
5. The answer is the span and the sentence it stands in, both the source's own letters.
6. The session keeps question and answer as one segment. A cancelled turn leaves it as it was.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

from services import errors
from services.agent import repo
from services.agent.copied import numbers
from services.agent.looks import Look, Proposal, at_passages, at_reading, named, proposals
from services.agent.model import Model
from services.agent.prompts import remembered
from services.agent.quotes import quote, sentence_around
from services.agent.reading import open_session, renew
from services.agent.turn import Turn
from services.agent.types import Answer, Emit, Origin, Quote, SourceView, silent
from services.agent.weighing import Choice, choose
from services.inference.pb.inference_pb2 import Copy, Part

NOT_ANSWERED = "The text does not answer this."


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
    return replace(result, usage=turn.usage(), timing=turn.timing(), digest=digest)


def from_text(turn: Turn) -> tuple[Answer, list[str]]:
    """The answer, and the words of it that the session keeps."""
    found: list[Proposal] = []
    choice = Choice()
    for look in looks(turn):
        found += proposals(turn.ask(look), look, turn.views, turn.hits)
        choice = choose(turn.question, turn.views, turn.hits, found)
        if choice.sure:
            break
    if not choice.there:
        return unanswered(turn), []
    turn.origin = choice.origin
    return composed(turn, choice.quotes), [kept_words(turn, q) for q in choice.quotes]


def looks(turn: Turn) -> Iterator[Look]:
    """One after another: the passages are looked for when the reading has been asked."""
    if turn.origin == "read":
        yield from at_reading(turn.views, turn.question)
    yield from at_passages(turn.views, turn.question, turn.hits)


def kept_words(turn: Turn, q: Quote) -> str:
    """The source's letters with the one space before them: the very tokens that were read."""
    start = q.char[0] if q.char else 0
    text = named(turn.views, q.source_id).text
    return f" {q.text}" if start and text[start - 1] == " " else q.text


def composed(turn: Turn, found: Sequence[Quote]) -> Answer:
    """`words — “sentence”` for each; the citation is the sentence and its span points at it in the answer."""
    text, quotes = "", []
    for words in found:
        view = named(turn.views, words.source_id)
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
    return repo.chosen(turn.point(prompt, origin, Copy(parts=numbers(prompt))).quotes, candidates)


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
