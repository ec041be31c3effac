"""Questions over their whole article, which is read in full, once: alone, with BM25 in front, and as a user gets it.

`read`: the question to the reading, nothing shown again. `bm25`: three passages to the model, which has read nothing
else. `product`: services/agent, which asks the reading, checks the words against the text, and takes the passages when
little supports them.
"""

from collections.abc import Sequence
from dataclasses import replace

from lab.eval.asking import MODES, answered, ask, each, groups, session
from lab.eval.items import Row, articles, document, measured, sample
from lab.eval.run import Figures, Run, graded, literal
from services.agent import Answer, answer, read_source, retrieve
from services.agent.answer import PASSAGES, shown
from services.agent.model import special
from services.agent.prompts import question_turn
from services.agent.types import SourceView
from services.inference.client import InferenceClient

Told = dict[str, tuple[str | None, list[str]]]  # by way: the answer, and every quote of it


def measure(run: Run) -> Figures:
    rows = measured("qa/squad")
    whole = articles(rows)
    picked = groups(sample([r for r in rows if r["title"] in whole], run.n, run.seed), lambda r: r["title"])
    run.total(sum(map(len, picked)))
    found = [one for questions in picked for one in over(run, whole[questions[0]["title"]], questions)]
    return figures(found)


def over(run: Run, paragraphs: list[str], questions: list[Row]) -> list[tuple[Row, str, Told]]:
    """Of one article: each row with the article's text and what was told."""
    view = document(questions[0]["title"], "\n\n".join(paragraphs))
    with session(run.client) as name:
        result = read_source(run.client, view, name)
        run.notes.append(f"article {view.title!r}: {result.position} tokens read in full, {len(questions)} questions")
        read = replace(view, engine_session=name)
        told = each(lambda row: looks(run.client, read, row["question"]), questions, run.step)
    return [(row, view.text, one) for row, one in zip(questions, told, strict=True)]


def looks(client: InferenceClient, view: SourceView, question: str) -> Told:
    passages = [hit.block.text for hit in shown(retrieve([view], question, PASSAGES))]
    found: Told = {}
    for mode in MODES:
        for way, where, turn in (("read", view.engine_session or "", []), ("bm25", "", passages)):
            said = ask(client, where, [*question_turn(question, turn), special("answer")], mode)
            found[f"{way}.{mode}"] = answered(said), [q.strip() for q in said.quotes]
    told = of_product(client, view, question)
    return found | {"product": (short(told), [q.text for q in told.quotes])}


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


def figures(found: Sequence[tuple[Row, str, Told]]) -> Figures:
    out: Figures = {}
    wanted = [row["answers"] for row, _, _ in found]
    for way in found[0][2]:
        out |= graded(f"article.{way}", [told[way][0] for _, _, told in found], wanted)
        quotes = [(quote, text) for _, text, told in found for quote in told[way][1]]
        out |= {f"article.{way}.literal": literal(quotes)} if quotes else {}
    return out
