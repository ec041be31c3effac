"""Does it say so when the text does not tell? The paragraph with the answer is taken out of its article.

`free`, `copy`: the model alone, shown the three passages that are nearest to the question by BM25, the hardest there
are; `shown`: the nearest one alone. `product`: as a user gets it, with the article read in full. Now and then what is
left holds the answer as well; such a question counts as a miss when it is answered. False refusals: the same with the
paragraph in its place.
"""

import random

from lab.eval.article import of_product
from lab.eval.asking import MODES, answered, ask, each, groups, read_in_full
from lab.eval.items import Row, articles, document, measured, sample
from lab.eval.run import Figures, Run, nothing, percent
from services.agent import retrieve
from services.agent.answer import PASSAGES, shown
from services.agent.model import special
from services.agent.prompts import question_turn
from services.agent.types import SourceView
from services.inference.client import InferenceClient

OF_EACH = 3  # questions on a paragraph: the article without it is read once for them


def measure(run: Run) -> Figures:
    rows = measured("qa/squad")
    whole = articles(rows)
    picked = drawn([row for row in rows if row["title"] in whole], run.n, run.seed)
    run.total(sum(map(len, picked)))
    by_article = groups(picked, lambda questions: questions[0]["title"])
    told = [one for paragraphs in by_article for one in of_article(run, whole, paragraphs)]
    texts = [row["context"] for paragraphs in by_article for questions in paragraphs for row in questions]
    return {f"unanswerable.{name}": percent([row[name] for row in told], texts) for name in sorted(told[0])}


def drawn(rows: list[Row], n: int, seed: int) -> list[list[Row]]:
    """Paragraphs at random with at most three questions each, until there are n questions."""
    paragraphs = sample(groups(rows, lambda r: r["context"]), len(rows), seed)
    pick, found = random.Random(seed), []
    while paragraphs and sum(map(len, found)) < n:
        group = paragraphs.pop()
        found.append(pick.sample(group, min(OF_EACH, len(group))))
    return found


def of_article(run: Run, whole: dict[str, list[str]], paragraphs: list[list[Row]]) -> list[dict[str, float]]:
    title = paragraphs[0][0]["title"]
    with read_in_full(run, document(title, "\n\n".join(whole[title]))) as there:
        told = each(lambda rows: of_paragraph(run, whole[title], there, rows), paragraphs, nothing)
    return [one for found in told for one in found]


def of_paragraph(run: Run, paragraphs: list[str], there: SourceView, rows: list[Row]) -> list[dict[str, float]]:
    """Refused when it is gone, and although it is there; by the model, by the agent."""
    left = [p for p in paragraphs if p != rows[0]["context"]]
    with read_in_full(run, document(f"{there.title} less one paragraph", "\n\n".join(left))) as gone:
        return [told(run, gone, there, row) for row in rows]


def told(run: Run, gone: SourceView, there: SourceView, row: Row) -> dict[str, float]:
    question = row["question"]
    near = [hit.block.text for hit in shown(retrieve([gone], question, PASSAGES))]
    passages = {"": (near, [row["context"], *near[: PASSAGES - 1]]), "shown.": (near[:1], [row["context"]])}
    found: dict[str, float] = {}
    for way, (without, within) in passages.items():
        for mode in MODES:
            found[f"{way}{mode}.said_so"] = refused(run.client, question, without, mode)
            found[f"{way}{mode}.false_refusals"] = refused(run.client, question, within, mode)
    found["product.said_so"] = float(not of_product(run.client, gone, question).answered)
    found["product.false_refusals"] = float(not of_product(run.client, there, question).answered)
    run.step()
    return found


def refused(client: InferenceClient, question: str, passages: list[str], mode: str) -> float:
    said = ask(client, "", [*question_turn(question, passages), special("answer")], mode)
    return float(answered(said) is None)
