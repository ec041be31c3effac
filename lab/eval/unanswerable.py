"""Does it say so when the text does not tell? The paragraph with the answer is taken out of its article.

What is left are the article's other paragraphs, the nearest to the question by BM25: the hardest there are. Now and
then one of them holds the answer as well; such a question counts as a miss when it is answered.
"""

from lab.eval.asking import MODES, answered, ask, each, groups
from lab.eval.items import Row, articles, document, measured, sample
from lab.eval.run import Figures, Run, percent
from services.agent import answer, retrieve
from services.agent.answer import PASSAGES, shown
from services.agent.model import special
from services.agent.prompts import question_turn
from services.agent.types import SourceView
from services.inference.client import InferenceClient


def measure(run: Run) -> Figures:
    rows = measured("qa/squad")
    whole = articles(rows)
    picked = sample([row for row in rows if row["title"] in whole], run.n, run.seed)
    paragraphs = groups(picked, lambda r: r["context"])
    run.total(len(paragraphs))
    told = each(lambda group: without(run.client, whole[group[0]["title"]], group), paragraphs, run.step)
    flat = [row for group in told for row in group]
    names = sorted(flat[0])
    return {f"unanswerable.{name}": percent([row[name] for row in flat]) for name in names}


def without(client: InferenceClient, paragraphs: list[str], rows: list[Row]) -> list[dict[str, float]]:
    """Of one paragraph's questions: refused when it is gone, and although it is there; by the model, by the agent."""
    gold = rows[0]["context"]
    gone = document("gone", "\n\n".join(p for p in paragraphs if p != gold))
    there = document("there", "\n\n".join(paragraphs))
    return [told(client, gone, there, row) for row in rows]


def told(client: InferenceClient, gone: SourceView, there: SourceView, row: Row) -> dict[str, float]:
    question = row["question"]
    near = [hit.block.text for hit in shown(retrieve([gone], question, PASSAGES))]
    with_gold = [row["context"], *near[: PASSAGES - 1]]
    found: dict[str, float] = {}
    for mode in MODES:
        said = [
            answered(ask(client, "", [*question_turn(question, p), special("answer")], mode)) for p in (near, with_gold)
        ]
        found |= {f"{mode}.said_so": float(said[0] is None), f"{mode}.false_refusals": float(said[1] is None)}
    found["product.said_so"] = float(not answer(client, [gone], "", question).answered)
    found["product.false_refusals"] = float(not answer(client, [there], "", question).answered)
    return found
