"""A paragraph read, then questions on it: F1 and exact match, all and by source; two references that read nothing."""

import random
from collections.abc import Callable

from lab.eval.asking import MODES, answered, ask, each, groups, reading
from lab.eval.items import Row, measured, sample, squad_file
from lab.eval.run import Figures, Run, graded, literal, percent
from lab.spans import sentences
from services.agent.model import Said, special
from services.agent.prompts import question_turn
from services.inference.client import InferenceClient

Asker = Callable[[Row], dict[str, Said]]


def measure(run: Run) -> Figures:
    rows = squad_file(run.squad) if run.squad else list(measured("qa/squad"))
    name = f"squad.{run.squad.stem}" if run.squad else "squad"
    picked = [row for group in groups(sample(rows, run.n, run.seed), lambda r: r["context"]) for row in group]
    said = on_paragraphs(run, picked)
    found: Figures = {}
    for mode in MODES:
        found |= figures(f"{name}.{mode}", picked, [s[mode] for s in said])
    return found | references(name, [row for row in picked if row["answers"]])


def on_paragraphs(run: Run, picked: list[Row]) -> list[dict[str, Said]]:
    """What is said to each row's question after its paragraph; a paragraph is read once for all its questions."""
    paragraphs = groups(picked, lambda r: r["context"])
    run.total(len(paragraphs))
    done = each(lambda rows: after(run.client, rows), paragraphs, run.step)
    return [said for group in done for said in group]


def after(client: InferenceClient, rows: list[Row]) -> list[dict[str, Said]]:
    with reading(client, rows[0]["context"]) as name:
        prompts = [[*question_turn(row["question"], []), special("answer")] for row in rows]
        return [{mode: ask(client, name, prompt, mode) for mode in MODES} for prompt in prompts]


def figures(name: str, picked: list[Row], said: list[Said]) -> Figures:
    """Of one way of decoding. Questions without an answer (SQuAD 2.0) count apart: said so, or not."""
    pairs = [(answered(s), row) for s, row in zip(said, picked, strict=True)]
    can, cannot = [p for p in pairs if p[1]["answers"]], [p for p in pairs if not p[1]["answers"]]
    found = graded(name, [s for s, _ in can], [row["answers"] for _, row in can]) if can else {}
    if cannot:
        found[f"{name}.absent_said_so"] = percent([float(s is None) for s, _ in cannot])
    for part in groups(can, lambda p: p[1]["source"]):
        scores = graded(f"{name}.{part[0][1]['source']}", [s for s, _ in part], [row["answers"] for _, row in part])
        found |= {key: value for key, value in scores.items() if not key.endswith("refusals")}
    quotes = [(q.strip(), row["context"]) for s, row in zip(said, picked, strict=True) for q in s.quotes]
    return found | ({f"{name}.literal": literal(quotes)} if quotes else {})


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
    found = graded(f"{name}.random_span", spans, wanted) | graded(f"{name}.first_sentence", opening, wanted)
    return {key: value for key, value in found.items() if not key.endswith("refusals")}
