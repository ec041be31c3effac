"""Facts planted in 4,000, 16,000 and 64,000 words that training left out, read in full, then asked for.

Texts of two kinds: n with `single`, which holds ten unlike facts of sentences made for this measure and ten of
training's own (lab/made.py), all at ten depths; and three for each two of these with 32 keys of one kind (`multikey`),
four people with four values each (`multivalue`: the share of values said), and four chains of five names (`variables`:
the share of names said; `variable_value`: the number behind the last name). So every question has many other facts
beside its own in the text, and several are asked of one reading, each on a fork; their intervals count texts.
A hit is the wanted words within the quotes, whole. `product`: the same through services/agent.
"""

import random
from collections.abc import Sequence

from tokenizers import Tokenizer

from lab import made
from lab.eval.article import of_product, short
from lab.eval.asking import MODES, TOGETHER, ask, each, read_in_full
from lab.eval.items import document, held_texts
from lab.eval.planted import FACTS, Asked, Task, fact, filler, multikey, multivalue, planted, singles, variables
from lab.eval.run import Figures, Run, percent
from lab.scoring import holds
from lab.vocab import Vocabulary
from services.agent.model import special
from services.agent.prompts import question_turn
from services.agent.types import SourceView
from services.inference.client import InferenceClient

PRODUCT = ("single.new", "multikey")  # asked through the agent too
CROWDED = 30_000  # words from which on the page pool (262,144 tokens) holds one answer at a time
FIFTHS = 5  # by which depths are reported
Scored = tuple[str, Asked, float, int]  # measure, what was asked, share of the wanted words said, number of the text


def measure(words: int, run: Run) -> Figures:
    kinds = [(n, 0) for n in range(run.n)] + [(n, 1) for n in range(run.n * 3 // 2)]
    texts = [drawn(words, kind, random.Random(f"{run.seed}/{words}/{n}/{kind}")) for n, kind in kinds]
    run.total(sum(len(asked) for _, tasks in texts for asked in tasks.values()))
    told = [(*one, n) for n, (text, tasks) in enumerate(texts) for one in over(run, text, tasks)]
    return figures(f"needles.{words // 1000}k", told)


def drawn(words: int, kind: int, pick: random.Random) -> tuple[str, dict[str, list[Asked]]]:
    text = filler(held_texts("wiki"), words, pick)
    return planted(text, facts_of_training_and_new(pick) if kind == 0 else many(pick), pick)


def facts_of_training_and_new(pick: random.Random) -> dict[str, Task]:
    vocab = Vocabulary(Tokenizer.from_file("lab/model/tokenizer.json"))
    trained: dict[str, tuple[str, str, str]] = {}
    while len(trained) < len(FACTS):
        one = made.fact(pick, vocab)
        trained.setdefault(one[1], one)
    new = [fact(number, pick) for number in range(len(FACTS))]
    return {"single.new": singles(new, pick), "single.trained": singles(list(trained.values()), pick)}


def many(pick: random.Random) -> dict[str, Task]:
    which, value = variables(pick)
    tasks = {"multikey": multikey(pick), "multivalue": multivalue(pick), "variables": which}
    return tasks | {"variable_value": value}


def over(run: Run, text: str, tasks: dict[str, list[Asked]]) -> list[tuple[str, Asked, float]]:
    """Reads the text once and asks everything about it."""
    asked = [(task, one) for task, ones in tasks.items() for one in ones]
    words = len(text.split())
    with read_in_full(run, document(f"{words} words", text)) as view:
        together = 1 if words > CROWDED else TOGETHER
        told = each(lambda pair: looks(run.client, view, *pair), asked, run.step, together)
    return [one for found in told for one in found]


def looks(client: InferenceClient, view: SourceView, task: str, asked: Asked) -> list[tuple[str, Asked, float]]:
    found = []
    for mode in MODES:
        prompt = [*question_turn(asked.question, []), special("answer")]
        said = ask(client, view.engine_session or "", prompt, mode)
        found.append((f"{task}.{mode}", asked, share(" ; ".join(said.quotes), asked.wanted)))
    if task in PRODUCT:
        told = of_product(client, view, asked.question)
        found.append((f"{task}.product", asked, share(short(told) or "", asked.wanted)))
    return found


def share(said: str, wanted: Sequence[str]) -> float:
    return sum(holds(said, one) for one in wanted) / len(wanted)


def figures(name: str, told: Sequence[Scored]) -> Figures:
    out: Figures = {}
    for measured in dict.fromkeys(one for one, *_ in told):
        hits = [(hit, text, min(4, asked.depth * FIFTHS // 100)) for one, asked, hit, text in told if one == measured]
        out[f"{name}.{measured}"] = percent([hit for hit, *_ in hits], [text for _, text, _ in hits])
        for fifth in range(FIFTHS) if measured.startswith("single") else ():
            some = [(hit, text) for hit, text, depth in hits if depth == fifth]
            depth = f"depth_{20 * fifth}-{20 * fifth + 20}"
            out |= {f"{name}.{measured}.{depth}": percent(*zip(*some, strict=True))} if some else {}
    return out
