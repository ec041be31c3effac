"""What services/agent/weighing.py chooses and refuses by: answering.json.

Asked are rows that no model was trained on and nobody measures on: of SQuAD's `valid` split the articles set aside for
calibration (lab/eval/items.py), of FairytaleQA's, which is not measured, `--stories` stories. A text is its paragraphs
one after another; it is read whole, and then as often as there are THIRDS with some of its paragraphs left out. Every
question is put to the whole text and to the one without its paragraph; and to its paragraph alone, a short source, and
to the nearest other one. All looks are taken (services/agent/looks.py), the engine does the rest.

How the weights are found and what is printed: choosing.py.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lab.eval.asking import TOGETHER, each, groups, session
from lab.eval.items import Row, document, for_calibration, valid
from lab.eval.product import product
from lab.learn.choosing import Asked, Weights, learned, report
from services.agent import read_source, weighing
from services.agent.answer import looks
from services.agent.looks import proposals
from services.agent.retrieve import Index
from services.agent.turn import Turn
from services.agent.types import SourceView, silent
from services.inference.client import InferenceClient

THIRDS = 3
OF_A_STORY = 14  # questions
Put = tuple[Row, bool]  # a question, and does the text that it is put to answer it
SOURCES = ("squad-1.1-dev", "squadshifts-new_wiki", "squadshifts-amazon_reviews")  # reddit's posts have one title


@dataclass(frozen=True)
class Text:
    name: str
    paragraphs: list[str]
    rows: list[Row]

    def without(self, third: int) -> tuple[list[str], list[Row]]:
        """What is left of the paragraphs, and the questions on the others."""
        gone = set(random.Random(2).sample(self.paragraphs, len(self.paragraphs))[third::THIRDS])
        return [p for p in self.paragraphs if p not in gone], [row for row in self.rows if row["context"] in gone]


def learn(stories: int, seed: int) -> None:
    texts = [*of_squad(), *of_stories(stories, seed)]
    with product() as client:
        told = [one for text in texts for one in asked_of(client, text)]
        model = client.describe().fingerprint[:16]
    made = learned(told)
    report(told, made)
    store(made, f"python -m lab.learn answers --stories {stories} --seed {seed}", len(told), model)


def store(made: Weights, command: str, asked: int, model: str) -> None:
    rounded = {
        name: dict(zip(weighing.SEEN, np.round(row, 3).tolist(), strict=True)) for name, row in made.weights.items()
    }
    told = {"weights": rounded, "sure": round(made.sure, 3), "command": command, "asked": asked, "model": model}
    weighing.WEIGHTS.write_text(json.dumps(told, indent=1) + "\n")
    weighing.learned.cache_clear()


def of_squad() -> list[Text]:
    """An article each; of a set whose texts are single paragraphs, all of these together."""
    rows = [row for row in for_calibration("qa/squad") if row["source"] in SOURCES]
    name = lambda row: row["title"] if row["source"] == SOURCES[0] else row["source"]  # noqa: E731
    return [text(name(group[0]), group) for group in groups(rows, name)]


def of_stories(count: int, seed: int) -> list[Text]:
    """Of questions whose answer stands in their part of the story."""
    rows = [row for row in valid("qa/fairytaleqa") if any(a in row["context"] for a in row["answers"])]
    stories = groups(rows, lambda row: row["title"])[:count]
    return [some(text(story[0]["title"], story), random.Random(seed)) for story in stories]


def text(name: str, rows: Sequence[Row]) -> Text:
    ordered = sorted(rows, key=lambda row: row.get("paragraph") or 0)
    return Text(name, list(dict.fromkeys(row["context"] for row in ordered)), list(rows))


def some(whole: Text, pick: random.Random) -> Text:
    return replace(whole, rows=pick.sample(whole.rows, min(OF_A_STORY, len(whole.rows))))


def asked_of(client: InferenceClient, whole: Text) -> list[Asked]:
    found = over(client, whole.name, whole.paragraphs, [(row, True) for row in whole.rows])
    for third in range(THIRDS):
        left, rows = whole.without(third)
        found += over(client, whole.name, left, [(row, False) for row in rows]) if left and rows else []
    short = each(lambda one: over(client, whole.name, [one[0]], one[1]), list(alone(whole).items()), lambda: None)
    print(f"{whole.name}: {len(whole.paragraphs)} paragraphs, {len(whole.rows)} questions", flush=True)
    return found + [one for told in short for one in told]


def over(client: InferenceClient, name: str, texts: Sequence[str], rows: Sequence[Put]) -> list[Asked]:
    view = document(name, "\n\n".join(texts))
    with session(client) as reading:
        read_source(client, view, reading)
        read = replace(view, engine_session=reading)
        return each(lambda put: asked(client, read, *put), rows, lambda: None, TOGETHER if len(texts) > 1 else 1)


def alone(whole: Text) -> dict[str, list[Put]]:
    """What is asked of each paragraph: its own questions, and those of others that it is nearest to."""
    found: dict[str, list[Put]] = {}
    for row in whole.rows:
        found.setdefault(row["context"], []).append((row, True))
        others = [one for one in whole.paragraphs if one != row["context"]]
        for number, _ in Index(others).search(row["question"], 1) if others else []:
            found.setdefault(others[number], []).append((row, False))
    return found


def asked(client: InferenceClient, view: SourceView, row: Row, there: bool) -> Asked:
    """All looks are taken."""
    turn = Turn(
        client,
        [view],
        view.engine_session or "",
        row["question"],
        silent,
        "read" if view.engine_session else "retrieved",
    )
    found = [one for look in looks(turn) for one in proposals(turn.ask(look), look, turn.views, turn.hits)]
    return Asked(
        row["context"], row["source"], row["question"], turn.views, turn.hits, found, row["answers"] if there else ()
    )
