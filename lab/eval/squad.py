"""Questions on one paragraph: F1 and exact match, all and by source; two references that read nothing.

`free`, `copy`: the paragraph is read, then the question, on a fork. `shown`: the question, the paragraph, the question
again, in a sequence of its own, so that the model reads with the question in mind. `product`: as a user gets it, from
services/agent with the paragraph as a source that was read.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from lab.eval.article import told_by_product
from lab.eval.asking import MODES, Told, ask, each, groups, reading, session, told
from lab.eval.items import Row, document, measured, sample, squad_file
from lab.eval.run import Figures, Run, graded, literal, percent
from lab.spans import sentences
from services.agent import read_source
from services.agent.model import special
from services.agent.prompts import question_turn
from services.agent.types import SourceView
from services.inference.client import InferenceClient


def measure(run: Run) -> Figures:
    rows = squad_file(run.squad) if run.squad else list(measured("qa/squad"))
    name = f"squad.{run.squad.stem}" if run.squad else "squad"
    paragraphs = groups(sample(rows, run.n, run.seed), lambda r: r["context"])
    run.total(len(paragraphs))
    by_way = [one for found in each(lambda rows: over(run.client, rows), paragraphs, run.step) for one in found]
    picked = [row for group in paragraphs for row in group]
    out: Figures = {}
    for way in by_way[0]:
        out |= figures(f"{name}.{way}", picked, [one[way] for one in by_way])
    return out | references(name, [row for row in picked if row["answers"]])


def over(client: InferenceClient, rows: list[Row]) -> list[dict[str, Told]]:
    """What is told to each question on one paragraph, by way; the paragraph is read once, and once as a source."""
    view = document("paragraph", rows[0]["context"])
    with reading(client, rows[0]["context"]) as name, session(client) as source:
        read_source(client, view, source)
        return [looks(client, name, replace(view, engine_session=source), row) for row in rows]


def looks(client: InferenceClient, name: str, view: SourceView, row: Row) -> dict[str, Told]:
    question, context = row["question"], row["context"]
    turns = {"": (name, question_turn(question, [])), "shown.": ("", question_turn(question, [context]))}
    found = {
        f"{way}{mode}": told(ask(client, where, [*turn, special("answer")], mode), context)
        for way, (where, turn) in turns.items()
        for mode in MODES
    }
    return found | {"product": told_by_product(client, view, question)}


def figures(name: str, picked: Sequence[Row], by_row: Sequence[Told]) -> Figures:
    """Of one way. Questions without an answer (SQuAD 2.0) count apart: said so, or not."""
    pairs = [(said, row) for (said, _), row in zip(by_row, picked, strict=True)]
    can, cannot = [p for p in pairs if p[1]["answers"]], [p for p in pairs if not p[1]["answers"]]
    found = scores(name, can) if can else {}
    if cannot:
        refused = [float(said is None) for said, _ in cannot]
        found[f"{name}.absent_said_so"] = percent(refused, [row["context"] for _, row in cannot])
    for part in groups(can, lambda p: p[1]["source"]):
        by_source = scores(f"{name}.{part[0][1]['source']}", part)
        found |= {key: value for key, value in by_source.items() if not key.endswith("refusals")}
    quotes = [pair for _, quoted in by_row for pair in quoted]
    return found | ({f"{name}.literal": literal(quotes)} if quotes else {})


def scores(name: str, pairs: Sequence[tuple[str | None, Row]]) -> Figures:
    rows = [row for _, row in pairs]
    return graded(name, [said for said, _ in pairs], [r["answers"] for r in rows], [r["context"] for r in rows])


def references(name: str, picked: list[Row]) -> Figures:
    """A span of one to five words at random; the first sentence."""
    if not picked:
        return {}
    pick, spans, wanted = random.Random(2), [], [row["answers"] for row in picked]
    for row in picked:
        words = row["context"].split()
        at = pick.randrange(len(words))
        spans.append(" ".join(words[at : at + pick.randrange(1, 6)]))
    opening = [row["context"][slice(*sentences(row["context"])[0])] for row in picked]
    texts = [row["context"] for row in picked]
    found = graded(f"{name}.random_span", spans, wanted, texts)
    found |= graded(f"{name}.first_sentence", opening, wanted, texts)
    return {key: value for key, value in found.items() if not key.endswith("refusals")}
