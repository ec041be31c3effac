"""Questions over their whole article, which is read in full, once: alone, with BM25 in front, and as a user gets it.

`read`: the question to the reading, nothing shown again. `bm25`: three passages to the model, which has read nothing
else. `product`: services/agent, which asks the reading, checks the words against the text, and takes the passages when
little supports them.
"""

from collections.abc import Sequence

from lab.eval.asking import MODES, Told, ask, each, groups, read_in_full, session, told
from lab.eval.items import Row, articles, document, measured, sample
from lab.eval.run import Figures, Run, graded, literal
from services.agent import Answer, answer, retrieve
from services.agent.answer import PASSAGES, shown
from services.agent.model import special
from services.agent.prompts import question_turn
from services.agent.types import SourceView
from services.inference.client import InferenceClient


def measure(run: Run) -> Figures:
    rows = measured("qa/squad")
    whole = articles(rows)
    picked = groups(sample([r for r in rows if r["title"] in whole], run.n, run.seed), lambda r: r["title"])
    run.total(sum(map(len, picked)))
    found = [one for questions in picked for one in over(run, whole[questions[0]["title"]], questions)]
    return figures([row for questions in picked for row in questions], found)


def over(run: Run, paragraphs: list[str], questions: list[Row]) -> list[dict[str, Told]]:
    """What is told to each question on one article, by way."""
    with read_in_full(run, document(questions[0]["title"], "\n\n".join(paragraphs))) as view:
        return each(lambda row: looks(run.client, view, row["question"]), questions, run.step)


def looks(client: InferenceClient, view: SourceView, question: str) -> dict[str, Told]:
    passages = [hit.block.text for hit in shown(retrieve([view], question, PASSAGES))]
    turns = {"read": (view.engine_session or "", []), "bm25": ("", passages)}
    found = {
        f"{way}.{mode}": told(ask(client, where, [*question_turn(question, turn), special("answer")], mode), view.text)
        for way, (where, turn) in turns.items()
        for mode in MODES
    }
    return found | {"product": told_by_product(client, view, question)}


def told_by_product(client: InferenceClient, view: SourceView, question: str) -> Told:
    given = of_product(client, view, question)
    return short(given), [(quote.text, view.text) for quote in given.quotes]


def of_product(client: InferenceClient, view: SourceView, question: str) -> Answer:
    """As a user gets it, in a session of its own."""
    with session(client) as name:
        return answer(client, [view], name, question)


def short(told: Answer) -> str | None:
    """The words before the first cited sentence (`words — “sentence”`), or the sentence when it is the answer."""
    if not told.answered or not told.quotes:
        return None
    first = told.quotes[0]
    lead = told.text[: first.span[0]] if first.span else ""
    return lead.rstrip("“").rstrip().removesuffix("—").strip() or first.text


def figures(rows: Sequence[Row], found: Sequence[dict[str, Told]]) -> Figures:
    out: Figures = {}
    wanted, titles = [row["answers"] for row in rows], [row["title"] for row in rows]
    for way in found[0]:
        out |= graded(f"article.{way}", [one[way][0] for one in found], wanted, titles)
        quotes = [pair for one in found for pair in one[way][1]]
        out |= {f"article.{way}.literal": literal(quotes)} if quotes else {}
    return out
