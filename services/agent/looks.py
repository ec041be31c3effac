"""Where the model looks for an answer, and what it proposes there.

`read`: the session, which has read the whole source, is asked the bare question. The others in a fresh sequence, the
question before and after: `first` shows the passage nearest to the question alone, `second` the next one, `together`
all that were found. A source that is short is one passage.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from services.agent.copied import Quotable, Shown, in_prompt, in_session
from services.agent.locating import in_sources, whole_words
from services.agent.model import Said
from services.agent.prompts import question_turn
from services.agent.retrieve import retrieve, whole
from services.agent.types import Hit, Origin, Quote, SourceView
from services.inference.pb.inference_pb2 import Part

Kind = Literal["read", "first", "together", "second"]
PASSAGES = 3
PASSAGE_BUDGET = 2_400  # characters of all passages, about 600 tokens


@dataclass(frozen=True)
class Look:
    kind: Kind
    prompt: Sequence[Part]
    quotable: Quotable

    @property
    def origin(self) -> Origin:
        return "read" if self.kind == "read" else "retrieved"


@dataclass(frozen=True)
class Proposal:
    """A quote that the model said, and how sure it was."""

    quote: Quote
    kind: Kind
    odds: float  # log odds that this look has an answer at all
    logprobs: Sequence[float]  # of the quote's tokens and of the one that closes it, among those that could follow

    @property
    def origin(self) -> Origin:
        return "read" if self.kind == "read" else "retrieved"


def passages(views: Sequence[SourceView], question: str) -> list[Hit]:
    """The source itself when it is short; else the nearest to the question, best first."""
    known = [view for view in views if view.blocks]
    if len(known) == 1 and len(known[0].text) <= PASSAGE_BUDGET:
        return [whole(known[0])]
    return shown(retrieve(views, question, PASSAGES))


def shown(hits: Sequence[Hit]) -> list[Hit]:
    """As many of the best as fit the budget; the best one always."""
    out: list[Hit] = []
    size = 0
    for hit in hits:
        if not out or size + len(hit.block.text) <= PASSAGE_BUDGET:
            out.append(hit)
            size += len(hit.block.text)
    return out


def at_reading(views: Sequence[SourceView], question: str) -> list[Look]:
    return quotable([Look("read", question_turn(question, []), in_session(views))])


def at_passages(views: Sequence[SourceView], question: str, hits: Sequence[Hit]) -> list[Look]:
    """What tells most comes first."""
    rows: list[tuple[Kind, Sequence[Hit]]] = [("first", hits[:1])]
    if len(hits) > 1:
        rows += [("together", hits), ("second", hits[1:2])]
    return quotable([showing(kind, views, question, some) for kind, some in rows if some])


def showing(kind: Kind, views: Sequence[SourceView], question: str, hits: Sequence[Hit]) -> Look:
    prompt = question_turn(question, [hit.block.text for hit in hits])
    return Look(kind, prompt, in_prompt(prompt, [Shown(named(views, hit.source_id), hit.block.char) for hit in hits]))


def quotable(looks: Sequence[Look]) -> list[Look]:
    """Not where there is nothing to quote."""
    return [look for look in looks if look.quotable.copy()]


def proposals(said: Said, look: Look, views: Sequence[SourceView], hits: Sequence[Hit]) -> list[Proposal]:
    """What was said, as far as it is in the source, in whole words."""
    if not said.quotes:
        return []
    found = zip(in_sources(said, look.quotable, views, hits), said.logprobs, strict=True)
    return [
        Proposal(whole_words(named(views, quote.source_id), quote), look.kind, said.odds, logprobs)
        for quote, logprobs in list(found)[:PASSAGES]
        if quote.match != "none"
    ]


def named(views: Sequence[SourceView], source_id: str) -> SourceView:
    return next(view for view in views if view.id == source_id)
